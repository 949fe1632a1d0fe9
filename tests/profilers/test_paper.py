"""The paper's figures against the paper."""

from __future__ import annotations

from rbserve.models.zoo import MODELS
from rbserve.profilers.compare.paper import paper_rows


def test_every_paper_row_is_a_zoo_row_of_its_group() -> None:
    groups = {spec.name: spec.group for spec in MODELS}
    rows = [*paper_rows("ctr", "mind")[1], *paper_rows("seqrec", "mind")[1]]
    assert {row.model: row.group for row in rows}.items() <= groups.items()
    assert len({row.model for row in rows}) == len(rows)


def test_a_data_set_of_the_paper_has_its_own_column_and_any_other_the_overall_one() -> None:
    for dataset, column, auc in (("hm", "hm", 0.8120), ("ml-100k", "overall", 0.6825)):
        found, rows = paper_rows("ctr", dataset)
        (gdcn,) = [row for row in rows if row.model == "gdcn"]
        assert (found, gdcn.column, gdcn.accuracy, gdcn.latency_ms) == (column, column, auc, 0.69)


def test_the_paper_prints_no_latency_for_a_model_behind_an_api() -> None:
    (row,) = [row for row in paper_rows("ctr", "mind")[1] if row.model == "zeroshot-gpt-3.5"]
    assert row.latency_ms is None
