"""What a head that is divided among ranks does not go together with, said before anything is built."""

from __future__ import annotations

from facetrain import losses
from facetrain.config import Config
from facetrain.distributed.runtime import Runtime
from facetrain.errors import InputError

_SHARDED = "sharded"
_INSTEAD = "or use the head 'partial'"


def check_sharding(config: Config, runtime: Runtime) -> None:
    """Refuses what a sharded head cannot be trained with on this runtime; on one device everything goes.

    Raises:
        InputError: naming the key and what to do.
    """
    stages = config.resolved_stages()
    sharded = [stage for stage in stages if stage.head["name"] == _SHARDED]
    if not sharded:
        return
    if runtime.replicas_in_sync > 1:
        raise InputError(
            f"head: 'sharded' divides the classes among Horovod ranks, but the runtime is {runtime.kind!r} with "
            f"{runtime.replicas_in_sync} devices: start with horovodrun, {_INSTEAD}"
        )
    if runtime.world == 1:
        return
    for stage in stages:
        if stage.head["name"] != _SHARDED:
            raise InputError(
                f"the head of stage {stage.name}: expected 'sharded', as in stage {sharded[0].name}, received "
                f"{stage.head['name']!r}: on several ranks all stages have it or none; make them equal"
            )
        if not losses.get(stage.loss).works_on_shards:
            raise InputError(
                f"the loss of stage {stage.name}: {stage.loss['name']!r} needs more than the cosine with the own class "
                f"and, one by one, those with others, which a sharded head cannot give: take another loss, {_INSTEAD}"
            )
    clipping = {"train.clip_norm": config.train.clip_norm}
    clipping.update({f"optimizer.{key}": config.optimizer.get(key) for key in ("clipnorm", "global_clipnorm")})
    for key, value in clipping.items():
        if value is not None:
            raise InputError(
                f"{key}: measures whole gradients, of which a rank with a sharded head has a part; leave it out, "
                f"{_INSTEAD}"
            )
    if config.init is not None and config.init.head != "drop":
        raise InputError(
            f"init.head: {config.init.head!r} looks at all class centres, of which a rank with a sharded head has a "
            f"part; set it to 'drop', start on one process, {_INSTEAD}"
        )
