"""Record files in several shards, ``train-00000.rec`` and on, as one source."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from facetrain.data.damage import Place
from facetrain.data.joined_source import JoinedSource
from facetrain.data.record_source import PROPERTY_FILE, RecordSource
from facetrain.data.sources import FaceSource
from facetrain.errors import InputError
from facetrain.files import PathLike

_log = logging.getLogger(__name__)

_SHARD = re.compile(r".+-(\d+)\.rec")


class _Shard(RecordSource):
    _whole = False  # ``property`` counts the identities of all shards


class ShardedRecordSource(JoinedSource):
    """Several record files whose labels are one numbering: the same label is the same identity in all of them.

    Args:
        sources: the shards in their order.
    """

    repairable = True

    def __init__(self, sources: Sequence[RecordSource]):
        values, first = np.unique(np.concatenate([one.label_values for one in sources]), return_index=True)
        names = [name for one in sources for name in one.identities]
        maps = [np.searchsorted(values, one.label_values).astype(np.int32) for one in sources]
        super().__init__(sources, maps, [names[place] for place in first.tolist()])
        self.declared = sources[0].declared
        if self.declared is not None and self.declared.classes != len(values):
            what = "%s says %d classes, but the shards have %d identities, which count"
            _log.warning(what, sources[0].path.with_name(PROPERTY_FILE), self.declared.classes, len(values))

    def stem(self, index: int) -> str:
        """Returns number of the shard and key of image ``index``."""
        number, inner = self.origin(index)
        return f"{number:05d}-{self.sources[number].stem(inner)}"

    def repair(self, bad: Sequence[Place]) -> str:
        """Repairs each shard that holds something damaged; see ``RecordSource.repair``."""
        done = []
        for one in self.sources:
            here = [place for place in bad if place.file == str(one.path)]
            if here:
                done.append(one.repair(here))
        return "; ".join(done)


def find_shards(path: PathLike) -> list[Path]:
    """Returns the shards ``...-00000.rec`` of a folder in their order; an empty list for anything else.

    Raises:
        InputError: if the numbers of the shards leave a gap.
    """
    path = Path(path)
    if not path.is_dir() or (path / "train.rec").is_file():
        return []
    files = sorted(path.glob("*.rec"))
    numbers = [_SHARD.fullmatch(file.name) for file in files]
    if len(files) < 2 or not all(numbers):
        return []
    for wanted, found in enumerate(sorted(int(match.group(1)) for match in numbers if match)):
        if wanted != found:
            what = f"shard {wanted} is missing in {str(path)!r}, the next one is {found}"
            raise InputError(f"{what}; fetch it, or name one file")
    return sorted(files, key=lambda file: int(file.stem.rpartition("-")[2]))


def open_records(
    path: PathLike, idx: PathLike | None = None, on_damaged: str = "fail", show_progress: bool = False
) -> FaceSource:
    """Opens InsightFace record files: a ``.rec``, the folder of one, or a folder of shards; see ``RecordSource``."""
    if str(path).endswith(".idx") and idx is None:
        path = Path(path).with_suffix(".rec")
    shards = find_shards(path)
    if not shards:
        return RecordSource(path, idx, on_damaged, show_progress)
    if idx is not None:
        raise InputError(f"{str(path)!r} holds {len(shards)} record files; idx can be given for one of them only")
    return ShardedRecordSource([_Shard(file, None, on_damaged, show_progress) for file in shards])
