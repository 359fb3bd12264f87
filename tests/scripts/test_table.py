"""Tables and pictures of results, by hand."""

import csv
import json

import numpy as np
import pytest
from matplotlib.collections import PathCollection
from matplotlib.container import ErrorbarContainer
from PIL import Image
from written_runs import write_runs

from scripts import (
    ood,
    ood_detection,
    plots,
    predictions,
    report_calibration,
    report_hardest,
    report_pairs,
    report_sections,
    table,
    transfer_tables,
)
from scripts.groups import Group, average, caption, lead, one_by_one, read_groups
from scripts.methods import Method
from scripts.plots import spread
from scripts.published import PUBLISHED, PUBLISHED_DATASETS, published_row, read_published
from scripts.table import folded, main, make_table

COOP = Method("CoOp, shared context", "CoOp", "shared-context", published="CoOp")
ZERO_SHOT = Method("zero-shot CLIP", "ZeroshotCLIP", "one-template", trained=False, published="CLIP (zero-shot)")
OURS = Method("SOT-GLP", "SOTGLP", "with-projection")


def group(method, dataset, accuracies, shots=16, backbone="ViT-B/16"):
    """A group of seeds 1, 2, ...; None is a run that is not finished."""
    runs = {
        seed: {"metrics": {"accuracy": accuracy}, "seconds": 1.0, "backbone": backbone}
        for seed, accuracy in enumerate(accuracies, 1)
        if accuracy is not None
    }
    return Group(method, dataset, shots, list(range(1, len(accuracies) + 1)), runs)


def texts(groups, published=None):
    """{first cell: the others} of a table, means in bold with stars."""
    return {name: [cell.text("*{}*".format) for cell in cells] for name, *cells in make_table(groups, published)[1]}


def test_a_wide_table_is_folded_to_100_columns():
    groups = [group(method, name, [50.0, 52.0]) for method in (COOP, OURS) for name in PUBLISHED_DATASETS]
    headers, rows = make_table(groups, {("CoOp", "DTD", 16): 40.0, ("others", "EuroSAT", 16): 80.0})
    parts = [text.splitlines() for text in folded(headers, rows)]
    assert len(parts) > 1 and max(len(line) for part in parts for line in part) <= 100
    words = " ".join(line for part in parts for line in part)
    assert [words.count(name) for name in headers[1:]] == [1] * (len(headers) - 1)
    assert words.count("51.0 ± 1.4") == 24 and "(published 40.0, +11.0)" in words
    assert words.count("SOT-GLP") == len(parts) and words.count("others (published)") == 1  # it has one figure
    (whole,) = folded(headers[:3], [row[:3] for row in rows])
    assert len(whole.splitlines()) == 4


def test_mean_and_sample_deviation():
    cell = group(COOP, "DTD", [50.0, 52.0, 57.0]).cell()
    assert (cell.mean, cell.deviation) == (53.0, pytest.approx(13.0**0.5))
    assert group(ZERO_SHOT, "DTD", [50.0]).cell().deviation is None


def test_the_lead_is_paired_over_seeds():
    """Differences 1, 2, 3 at seeds 1, 2, 3: mean 2, standard error 1 / sqrt(3), Student's 97.5 % point 4.303 at 2."""
    groups = [group(COOP, "DTD", [50.0, 60.0, 40.0]), group(OURS, "DTD", [51.0, 62.0, 43.0])]
    sentence = "SOT-GLP leads CoOp, shared context by 2.0 points (95 % interval -0.5 to 4.5, paired over 3 seeds)."
    assert lead([*groups, group(ZERO_SHOT, "DTD", [90.0])]) == sentence
    halves = [group(m, name, [x, y]) for m, x, y in ((COOP, 50.0, 52.0), (OURS, 54.0, 56.2)) for name in ("A", "B")]
    assert lead(halves).startswith("SOT-GLP leads CoOp, shared context by 4.1 points (95 % interval 2.8 to 5.4")
    assert lead(groups[:1]) == lead([group(COOP, "DTD", [50.0]), group(OURS, "DTD", [51.0])]) == ""


def test_the_average_spreads_as_the_seeds_averages_do():
    """Seeds' averages 60, 63 and 64.5: mean 62.5, variance (6.25 + 0.25 + 4) / 2."""
    cell = average([group(COOP, "DTD", [50.0, 52.0, 57.0]), group(COOP, "UCF101", [70.0, 74.0, 72.0])])
    assert (cell.mean, cell.deviation) == (62.5, pytest.approx(5.25**0.5))


def test_the_best_printed_mean_of_each_column_is_bold():
    groups = [group(COOP, "DTD", [50.04]), group(COOP, "UCF101", [70.0])]
    groups += [group(OURS, "DTD", [49.96]), group(OURS, "UCF101", [71.0])]
    assert texts(groups) == {COOP.name: ["*50.0*", "70.0", "60.0"], OURS.name: ["*50.0*", "*71.0*", "*60.5*"]}


def test_missing_runs_are_reported_and_do_not_win():
    groups = [group(COOP, "DTD", [50.0, None, 90.0]), group(COOP, "UCF101", [70.0, 70.0, 70.0])]
    groups += [group(OURS, "DTD", [40.0, 40.0, 40.0]), group(OURS, "UCF101", [None, None, None])]
    assert texts(groups) == {
        COOP.name: ["70.0 ± 28.3 (2 of 3 seeds)", "*70.0 ± 0.0*", "1 of 2 data sets"],
        OURS.name: ["*40.0 ± 0.0*", "0 of 3 seeds", "1 of 2 data sets"],
    }


def test_folders_that_lack_a_seed_or_a_data_set(tmp_path):
    folders = [write_runs(tmp_path / "a" / "shared-context", [50.0, 52.0, None])]
    folders += [write_runs(tmp_path / "b" / "shared-context", [60.0, 62.0, 64.0], dataset="DTD")]
    folders += [write_runs(tmp_path / "one-template", [30.0], trainer="ZeroshotCLIP")]
    assert texts(read_groups(folders)) == {
        "CoOp, shared context": ["51.0 ± 1.4 (2 of 3 seeds)", "*62.0 ± 2.0*", "1 of 2 data sets"],
        "zero-shot CLIP": ["*30.0*", "0 of 1 seeds", "1 of 2 data sets"],
    }


def test_files(tmp_path, capsys):
    groups = [
        write_runs(tmp_path / "one_a", [50.0, 52.0]),
        write_runs(tmp_path / "two", [40.0, 42.0], accuracy_local=3),
    ]
    out = tmp_path / "out"
    assert main([*map(str, groups), "--out", str(out)]) == 0
    assert "41.0 ± 1.4" in capsys.readouterr().out
    assert "| CoOp, one_a | **51.0 ± 1.4** |" in " ".join((out / "table.md").read_text().split())
    assert r"CoOp, one\_a & \textbf{51.0 $\pm$ 1.4} &  & 15.0 \\" in (out / "table.tex").read_text()
    assert "global branch" not in (out / "table.md").read_text(), "a column of nothing"
    rows = list(csv.DictReader((out / "table.csv").open()))
    assert rows[1] == {
        **{"method": "CoOp, two", "dataset": "FashionMNIST", "shots": "16", "seeds": "2", "seconds": "15.0"},
        **{"mean": "41.0", "std": str(2**0.5)},
    }


def test_pictures_of_what_there_is(tmp_path):
    groups = [write_runs(tmp_path / f"shots{n}" / "with-projection", [40.0 + n, 42.0 + n], shots=n) for n in (1, 4)]
    assert plots.main([str(groups[0]), "--out", str(tmp_path / "one")]) == 0
    assert {path.stem for path in (tmp_path / "one").glob("*.png")} == {"table", "seconds"}
    for seed in (1, 2):
        scores = {"average": {"MCM": {"AUROC": 70.0}, "GL-MCM": {"AUROC": 80.0 + seed, "FPR95": 30.0}}}
        (groups[1] / f"seed{seed}" / "ood.json").write_text(json.dumps(scores))
    assert [run["metrics"]["ood_auroc"] for run in read_groups(groups)[1].runs.values()] == [81.0, 82.0]
    assert plots.main([*map(str, groups), "--out", str(tmp_path / "all")]) == 0
    assert {path.stem for path in (tmp_path / "all").glob("*.png")} == {"table", "seconds", "shots", "ood"}
    for path in (tmp_path / "all").glob("*.png"):
        assert np.asarray(Image.open(path).convert("L")).std() > 10


def test_seconds_are_drawn_of_runs_one_after_the_other(tmp_path, capsys):
    """Seeds 1 and 2 take 10 and 20 s, 4 of them for encoding; then seed 2 starts before seed 1 has ended."""
    folder = write_runs(tmp_path / "runs" / "shared-context", [50.0, 60.0])
    (group,) = read_groups([folder])
    assert one_by_one([group]) and [cell.mean for cell in plots.mean_seconds([group]).values()] == [11.0]
    for early in ({"started": group.runs[1]["started"]}, {"started": None}):
        path = folder / "seed2" / "results.json"
        path.write_text(json.dumps({**group.runs[2], **early}))
        assert not one_by_one(read_groups([folder]))
        assert plots.main([str(folder), "--out", str(tmp_path / "out")]) == 0
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["table.png"]
        assert plots.NO_SECONDS in capsys.readouterr().out


@pytest.mark.parametrize("accuracies, words", [([50.0], "one run (seed 1)"), ([50.0, 52.0], "mean ± standard")])
def test_one_seed_has_no_deviation(tmp_path, capsys, monkeypatch, accuracies, words):
    """In words, in the table and in the bars."""
    saved = {}
    monkeypatch.setattr(plots, "save", lambda figure, path: saved.update({path.name: figure}))
    folders = [write_runs(tmp_path / "shared-context", accuracies)]
    folders += [write_runs(tmp_path / "one-template", [30.0], trainer="ZeroshotCLIP")]
    out = tmp_path / "out"
    assert main([*map(str, folders), "--out", str(out)]) == 0
    groups, several = read_groups(folders), len(accuracies) > 1
    plots.draw_all(groups, out)
    for text in (caption(groups), capsys.readouterr().out, (out / "table.md").read_text()):
        assert words in text and ("±" in text) == several
    (axes,) = saved["table.png"].axes
    whiskers = [part for part in axes.containers if isinstance(part, ErrorbarContainer)]
    assert len(whiskers) == several and (words in axes.get_xlabel())
    dots = [part.get_offsets() for part in axes.collections if isinstance(part, PathCollection)]
    assert [sorted(at[:, 0]) for at in dots] == [accuracies] * several
    (line,) = axes.lines[-1:]
    assert line.get_linestyle() == "--" and set(line.get_xdata()) == {30.0}
    assert "dashed: zero-shot CLIP" in axes.get_xlabel()


def test_labels_keep_their_distance_and_move_no_more_than_they_must():
    np.testing.assert_allclose(spread([10.0, 1.0, 5.0], 1, 0, 20), [10, 1, 5])
    np.testing.assert_allclose(spread([5.0, 5.0, 5.0], 2, 0, 20), [3, 5, 7])
    np.testing.assert_allclose(spread([19.0, 20.0, 20.0], 2, 0, 20), [16, 18, 20])


@pytest.mark.parametrize("accuracies", [[], [None, None]])
def test_no_finished_run_is_one_line(tmp_path, capsys, accuracies):
    assert main([str(write_runs(tmp_path, accuracies)), "--out", str(tmp_path / "out")]) == 2
    assert "no finished run" in capsys.readouterr().err


def test_two_folders_of_the_same_runs_are_refused(tmp_path, capsys):
    folders = [write_runs(tmp_path / backbone / "shared-context", [50.0], backbone=backbone) for backbone in "ab"]
    assert main([*map(str, folders), "--out", str(tmp_path / "out")]) == 2
    assert "are both FashionMNIST, 16 shots, b, CoOp, shared context" in capsys.readouterr().err


def test_published_figures_stand_beside_ours():
    """Of GalLoP's README: CoOp with 16 shots has 71.7 on ImageNet and 69.9 on DTD; zero-shot CLIP 66.7 and 44.1."""
    published = read_published()
    groups = [group(ZERO_SHOT, "ImageNet", [67.0]), group(ZERO_SHOT, "DescribableTextures", [44.0])]
    groups += [group(COOP, "ImageNet", [71.0]), group(COOP, "DescribableTextures", [None])]
    table = texts(groups, published)
    assert table[ZERO_SHOT.name][:2] == ["67.0 (published 66.7, +0.3)", "*44.0* (published 44.1, -0.1)"]
    assert table[ZERO_SHOT.name][2] == "*55.5* (published 55.4, +0.1)"
    assert table[COOP.name] == ["*71.0* (published 71.7, -0.7)", "0 of 1 seeds", "1 of 2 data sets"]
    assert table["GalLoP (published)"] == ["75.1", "75.5", "75.3"]
    assert not {"CoOp (published)", "CLIP (zero-shot) (published)"} & set(table)


def test_a_published_figure_is_for_its_shots_and_backbone(tmp_path, capsys):
    published = read_published()
    assert texts([group(COOP, "ImageNet", [71.0], shots=2)], published)[COOP.name][0] == "*71.0*"
    assert texts([group(COOP, "ImageNet", [71.0], backbone="ViT-B/32")], published) == {
        COOP.name: ["*71.0*", "", "", "1.0"]
    }
    folder = write_runs(tmp_path / "shared-context", [50.0])
    assert main([str(folder), "--out", str(tmp_path / "out"), "--published"]) == 0
    assert "No published figure applies" in capsys.readouterr().out


def test_published_averages():
    """CLIP's is that of its eleven figures (the printed 75.7 is a misprint); KgCoOp has published nothing else."""
    published = read_published()
    groups = [group(COOP, name, [50.0]) for name in PUBLISHED_DATASETS]
    assert published_row(published, "CLIP (zero-shot)", groups, 0)[1] == pytest.approx(64.8, abs=0.05)
    assert published_row(published, "KgCoOp", groups, 16) == ([None] * 11, published["KgCoOp", "Average_11", 16])
    assert published_row(published, "KgCoOp", groups[:10], 16)[1] is None


def test_the_published_figures_are_of_one_backbone_and_with_sources():
    with PUBLISHED.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["backbone"] for row in rows} == {"ViT-B/16"}
    assert all(row["source"] and float(row["value"]) for row in rows)
    assert not any("re-run" in row["method"] + row["source"] for row in rows)


def test_output_functions_take_empty_lists(tmp_path, capsys):
    table.write([], tmp_path, with_published=True)
    assert plots.draw_all([], tmp_path) == []
    transfer_tables.report([], [], tmp_path)
    ood_detection.report([], tmp_path)
    assert ood.table({"images": {}, "sets": {}, "average": {}}) == ""
    make = report_sections
    for section in (make.tables, make.drawn_plots, make.classes, make.curves, make.ood, make.settings):
        assert isinstance(section([]), str)
    for section in (make.confusions, report_hardest.hardest, report_pairs.pairs, report_calibration.calibration):
        assert section([], []) == ""
    for form in (predictions.Table, predictions.CSVLines, predictions.JSONList):
        lines = form("MCM")
        assert lines.start() and lines.text([]) == "" and lines.end() is not None
    assert "Traceback" not in capsys.readouterr().err
