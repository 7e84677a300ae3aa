from __future__ import annotations

import json

import numpy as np
import pytest
from tensorflow import keras

from facetrain.convert import Conversion, ConvertOptions, Judge, Matching, finish_conversion
from facetrain.convert.conversion import Epsilons
from facetrain.convert.report import compare
from facetrain.errors import InputError
from facetrain.images import encode_png
from facetrain.models import load_embedding_model
from tests.tiny import DIM, SIZE, tiny_embedding_model


def conversion(model=None, **changes) -> Conversion:
    values = {
        "model": model or tiny_embedding_model(),
        "source": "tiny.pth",
        "family": "tiny",
        "matching": Matching(9),
        "epsilons": Epsilons((1e-3,), stored=True, usual=(1e-3,)),
        "scaling": "zero_one_255",
        "channels": "RGB",
        "template": "arcface_112",
    }
    return Conversion(**{**values, **changes})


def as_judge(model: keras.Model, change=lambda outputs: outputs) -> Judge:
    return Judge("twin", lambda inputs: change(model(inputs, training=False).numpy()))


def finish(tmp_path, converted=None, **options):
    return finish_conversion(converted or conversion(), tmp_path / "out", ConvertOptions(**options))


def test_the_folder_is_a_model_with_contract_and_report(tmp_path):
    report = finish(tmp_path, licence="research only")
    model, contract = load_embedding_model(tmp_path / "out")
    assert (contract.input_size, contract.embedding_size, contract.licence) == (SIZE, DIM, "research only")
    written = json.loads((tmp_path / "out" / "conversion.json").read_text())
    assert written["family"] == "tiny"
    assert written["judged"] is False
    assert written["matching"]["matched"] == 9
    assert report.parameters == model.count_params()


def test_options_win_over_the_family(tmp_path):
    report = finish(tmp_path, scaling="raw", channels="BGR")
    assert report.contract["scaling"] == "raw"
    assert (report.channels, report.contract["channel_order"]) == ("BGR", "RGB")


@pytest.mark.parametrize("field", ["scaling", "channels", "template"])
def test_what_nobody_knows_is_asked_for(field, tmp_path):
    with pytest.raises(InputError, match=f"nothing in it says its {field}.*give --{field} with one of"):
        finish(tmp_path, conversion(**{field: None}))
    with pytest.raises(InputError, match=f"--{field} must be one of .*received 'odd'"):
        finish(tmp_path, **{field: "odd"})


def test_bgr_networks_take_rgb_afterwards(tmp_path):
    original, model = tiny_embedding_model(), tiny_embedding_model()
    pixels = np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 3)).astype(np.float32) / 255
    expected = original(pixels[..., ::-1]).numpy()
    report = finish(tmp_path, conversion(model, channels="BGR", judges=(as_judge(original),)))
    converted, _ = load_embedding_model(tmp_path / "out")
    np.testing.assert_allclose(converted(pixels).numpy(), expected, atol=1e-6)
    assert report.agreements[0].max_abs_diff < 1e-6
    assert any("trained on BGR" in note for note in report.notes)


def test_a_judge_that_scales_pixels_itself_gets_pixels(tmp_path):
    model = tiny_embedding_model()
    seen = []
    judge = Judge("pixels", lambda inputs: (seen.append(inputs.max()), model(inputs / 255).numpy())[1])
    report = finish(tmp_path, conversion(model, scales_itself=True, judges=(judge,)))
    assert report.agreements[0].holds
    assert seen[0] > 200


def test_a_judge_that_disagrees_stops_it(tmp_path):
    model = tiny_embedding_model()
    with pytest.raises(InputError, match=r"nothing was written.*differs from the twin by .* on seeded noise"):
        finish(tmp_path, conversion(model, judges=(as_judge(model, lambda outputs: outputs + [0.01, *[0] * 7]),)))
    with pytest.raises(InputError, match="belong to another model"):
        finish(tmp_path, conversion(model, judges=(as_judge(model, lambda outputs: outputs[:, :3]),)))
    assert list(tmp_path.iterdir()) == []


def test_a_judge_of_another_length_of_embeddings_agrees(tmp_path):
    model = tiny_embedding_model()
    report = finish(tmp_path, conversion(model, judges=(as_judge(model, lambda outputs: 3 * outputs),)))
    assert report.agreements[0].max_abs_diff < 1e-6


def test_embeddings_that_are_not_finite_stop_it(tmp_path):
    model = tiny_embedding_model()
    model.get_layer("conv").set_weights([np.full((3, 3, 3, 6), 3e38), np.zeros(6)])
    with pytest.raises(InputError, match="not finite"):
        finish(tmp_path, conversion(model))
    assert list(tmp_path.iterdir()) == []


def test_face_crops_are_compared_too(tmp_path):
    crops = tmp_path / "crops" / "someone"
    crops.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(3):
        image = rng.integers(0, 256, (20, 20, 3), dtype=np.uint8)
        (crops / f"{number}.png").write_bytes(encode_png(image))
    model = tiny_embedding_model()
    report = finish(tmp_path, conversion(model, judges=(as_judge(model),)), images=tmp_path / "crops")
    assert [(agreement.inputs, agreement.num_images) for agreement in report.agreements][1] == ("face crops", 3)
    (crops / "3.png").write_bytes(encode_png(image[:10]))
    with pytest.raises(InputError, match=r"3\.png: expected an aligned, square face crop, received 20x10"):
        finish(tmp_path, images=tmp_path / "crops")
    with pytest.raises(InputError, match="found no image"):
        finish(tmp_path, images=tmp_path / "out")
    with pytest.raises(InputError, match="expected a folder of aligned"):
        finish(tmp_path, images=tmp_path / "absent")


def test_outputs_of_the_original_are_compared(tmp_path):
    model, path = tiny_embedding_model(), tmp_path / "outputs.npz"
    x = np.random.default_rng(0).uniform(0, 1, (3, SIZE, SIZE, 3)).astype(np.float32)
    y = model(x).numpy()
    np.savez(path, x_nhwc=x, outputs=y)
    assert finish(tmp_path, expect=path).agreements[0].inputs == "outputs.npz"
    np.savez(path, x_nhwc_0_255=x * 255, tiny=y)
    assert finish(tmp_path, expect=path).judged
    np.savez(path, x_nhwc=x, tiny=y, other=y + 1)
    assert finish(tmp_path, expect=path, expect_output="tiny").judged
    with pytest.raises(InputError, match="name them with --expect-output"):
        finish(tmp_path, expect=path)
    with pytest.raises(InputError, match="nothing was written"):
        finish(tmp_path, expect=path, expect_output="other")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"outputs": np.ones((2, DIM))}, "expected inputs called x_nhwc"),
        ({"x_nhwc": np.ones((2, SIZE, SIZE, 3))}, "under the name 'outputs', found none"),
        ({"x_nhwc": np.ones((2, 8, 8, 3)), "outputs": np.ones((2, DIM))}, r"received \[2, 8, 8, 3\]"),
        ({"x_nhwc": np.ones((2, SIZE, SIZE, 3)), "outputs": np.ones((3, DIM))}, "of this model"),
        ({"x_nhwc": np.ones((2, SIZE, SIZE, 3)), "outputs": np.ones(2)}, r"expected numbers \[N, D\]"),
        ({"x_nhwc": np.asarray([{}], object), "outputs": np.ones((2, DIM))}, "cannot be read"),
    ],
)
def test_files_of_outputs_that_do_not_fit(arrays, message, tmp_path):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(InputError, match=message):
        finish(tmp_path, expect=tmp_path / "x.npz")


def test_files_that_hold_no_outputs(tmp_path):
    (tmp_path / "text.npz").write_text("numbers?")
    np.save(tmp_path / "one.npy", np.ones(3))
    for name in ("text.npz", "one.npy", "absent.npz"):
        with pytest.raises(InputError, match="--expect .*cannot be read"):
            finish(tmp_path, expect=tmp_path / name)


def test_other_things_are_never_replaced(tmp_path):
    finish(tmp_path)
    finish(tmp_path)  # an earlier conversion is
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match=r"holds other things \(thesis.tex\)"):
        finish(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="found a file"):
        finish_conversion(conversion(), tmp_path / "file", ConvertOptions())
    assert (tmp_path / "out" / "thesis.tex").read_text() == "years of work"


def test_tensors_that_did_not_match_are_named(tmp_path):
    odd = conversion(matching=Matching(1, tuple(f"extra{n}" for n in range(6)), ("gone",)))
    with pytest.raises(InputError, match="no tensor for gone, and .* no place for extra0, .*extra3 and 2 more"):
        finish(tmp_path, odd)
    assert finish(tmp_path, odd, allow_unmatched=True).rows()[0][1] == "as allowed"


@pytest.mark.parametrize(
    ("epsilons", "verdict", "finding"),
    [
        (Epsilons((), True, ()), "ok", "no batch normalisation"),
        (Epsilons((2e-5,), True, (2e-5,)), "ok", "2e-05 (as the file states; usual for this family)"),
        (Epsilons((1e-5,), False, (1e-5,)), "assumed", "1e-05 (not stored in the file; usual for this family)"),
        (Epsilons((1e-3, 2e-5), True, (2e-5,)), "unusual", "usually has 2e-05"),
    ],
)
def test_epsilons_are_judged(epsilons, verdict, finding, tmp_path):
    rows = finish(tmp_path, conversion(epsilons=epsilons)).rows()
    (row,) = [row for row in rows if row[0] == "BN epsilon"]
    assert row[1] == verdict
    assert finding in row[2]


def test_comparison_is_of_unit_length_embeddings():
    a = np.asarray([[3.0, 4.0], [0.0, 2.0]])
    b = np.asarray([[0.6, 0.8], [1.0, 0.0]])
    agreement = compare("x", "y", a, b)
    assert agreement.max_abs_diff == pytest.approx(1.0)
    assert agreement.min_cosine == pytest.approx(0.0)
    assert not agreement.holds
    assert compare("x", "y", a[:1], b[:1]).holds


def test_models_of_other_forms_are_refused(tmp_path):
    inputs = keras.Input((8, 16, 3))
    model = keras.Model(inputs, keras.layers.Flatten()(inputs))
    with pytest.raises(InputError, match="square crops"):
        finish(tmp_path, conversion(model))
