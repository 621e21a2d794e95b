"""Published results: complete, well formed, and their arithmetic."""

from __future__ import annotations

import pytest

from panoptic_segformer.analysis import averaging_gap, load_published_results

# A PQ of one decimal is up to 0.05 off, and so is the average of its rounded parts.
ROUNDING = 0.1
# What does not average, as it is printed: document, place, row, gap. The notes in the file say what is wrong.
MISPRINTS = {
    ("psf_cvpr2022", "query decoupling", "D-DETR-MS joint queries", 0.12),
    ("reading_list", "PISR, table 2", "CIAE (640) R50-FPN", -0.40),
    ("reading_list", "PISR, table 2", "SSAP R50", -0.37),
    ("reading_list", "PISR, table 2", "LPSNet R50", 0.70),
    ("reading_list", "PISR, table 2", "Panoptic-DL + OCR R50", -0.42),
    ("reading_list", "PISR, table 2", "Pan-SegFormer PVTv2-B2", 0.34),
    ("reading_list", "PISR, table 3", "Panoptic-FCN R50", -1.73),
    ("reading_list", "PISR, table 3", "MaskFormer R50", 0.37),
    ("detr_panoptic", "table 2", "DETR", -0.40),
    ("panoptic_fcn_talk", "table 11", "AdaptIS ResNeXt-101", -3.82),
    ("panoptic_fcn_talk", "table 12", "Panoptic FCN* Res50-FPN", -0.23),
    ("panoptic_fcn_talk", "table 13", "Seamless Res50-FPN", -0.16),
}


@pytest.fixture(scope="module")
def results():
    return load_published_results()


def test_things_and_stuff_average_to_all_but_for_the_misprints(results):
    gaps = [(result, averaging_gap(result)) for result in results]
    checked = [(result, gap) for result, gap in gaps if gap is not None]
    assert len(checked) > 200
    off = [(result, gap) for result, gap in checked if abs(gap) > ROUNDING]
    assert {(r.document, r.place, r.name, round(gap, 2)) for r, gap in off} == MISPRINTS
    assert all("note" in result.texts for result, _ in off)


def test_panoptic_quality_is_at_most_its_factors(results):
    for result in results:
        for suffix in ("", "_th", "_st"):
            quality, *factors = (result.numbers.get(f"{name}{suffix}") for name in ("PQ", "SQ", "RQ"))
            if None not in (quality, *factors):
                assert quality <= min(factors)


def test_rows_of_the_models_that_are_offered(results):
    rows = {
        (row.texts["backbone"], row.texts["epochs"]): row.numbers
        for row in results
        if row.place == "results on COCO val" and row.texts["method"] == "Panoptic SegFormer"
    }
    assert {key: (n["PQ"], n["parameters_M"], n["flops_G"]) for key, n in rows.items()} == {
        ("R50", "12"): (48.0, 51.0, 214),
        ("R50", "24"): (49.6, 51.0, 214),
        ("R101", "24"): (50.6, 69.9, 286),
        ("Swin-L (22k)", "24"): (55.8, 221.4, 816),
        ("PVTv2-B5 (22k)", "24"): (55.4, 104.9, 349),
    }


def test_corruptions_average_to_their_mean(results):
    values = {}
    for row in (row for row in results if row.dataset == "COCO-C"):
        values.setdefault((row.texts["method"], row.texts["backbone"]), {})[row.texts["setting"]] = row.numbers["PQ"]
    complete = {key: row for key, row in values.items() if len(row) == 18}
    assert len(complete) == 3
    for row in complete.values():
        mean = row.pop("mean of the corruptions")
        del row["clean"]
        assert sum(row.values()) / 16 == pytest.approx(mean, abs=0.1)


def test_rows_of_a_table_are_different(results):
    keys = [(r.document, r.place, r.dataset, r.split, *r.texts.items(), *r.numbers.items()) for r in results]
    assert len(set(keys)) == len(keys)


HEAD = "documents: {paper: A paper}\ntables:\n- {document: paper, place: t, dataset: COCO, split: val, "


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tables: []", "must have the keys 'documents' and 'tables'"),
        ("documents: {}\ntables: [{document: paper}]", "a table must have the keys"),
        ("documents: {}\ntables: [1]", "a table must have the keys"),
        ("tables: [", "is no yaml"),
        ("documents: {}\ntables: {paper: []}", "tables must be a list, got {'paper': "),
        ("documents: {}\ntables:", "tables must be a list, got None"),
        ("documents: [paper]\ntables: []", r"documents must be a mapping, got \['paper'\]"),
        (f"{HEAD.replace('place: t', 'place: 2')}columns: [method], rows: []}}", "place must be text, got 2"),
        (f"{HEAD.replace('document: paper', 'document: [a]')}columns: [], rows: []}}", "document must be text"),
        (f"{HEAD}columns: method, rows: []}}", "columns must be a list, got 'method'"),
        (f"{HEAD}columns: [method, [PQ]], rows: []}}", r"a column must be text, got \['PQ'\]"),
        (f"{HEAD}columns: [method], rows: }}", "rows must be a list, got None"),
        (f"{HEAD}columns: [method], rows: [ours]}}", "a row must be a list, got 'ours'"),
        (f"{HEAD}columns: [], rows: []}}", "'method' among them"),
        (f"{HEAD}columns: [method, PQ, colour], rows: []}}", "columns must be different ones"),
        (f"{HEAD}columns: [PQ], rows: []}}", "'method' among them"),
        (f"{HEAD}columns: [method, PQ], rows: [[ours]]}}", "must have a value for each"),
        (f"{HEAD}columns: [method, PQ], rows: [[ours, 101]]}}", "PQ must be a number from 0 to 100, got 101"),
        (f"{HEAD}columns: [method, PQ], rows: [[ours, '50']]}}", "PQ must be a number"),
        (f"{HEAD}columns: [method, epochs], rows: [[ours, 12]]}}", "epochs must be text, got 12"),
        (
            "documents: {}\ntables:\n- {document: paper, place: t, dataset: a, split: b, columns: [method], rows: []}",
            "the document is none of",
        ),
    ],
)
def test_malformed_file_is_refused(text, message, tmp_path):
    path = tmp_path / "results.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        load_published_results(path)
    assert str(path) in str(error.value)
