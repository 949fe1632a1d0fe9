"""Which node of a cluster a cell runs on: rules alone, without a cluster."""

from __future__ import annotations

import msgspec
import pytest

from rbserve.bench.matrix import Cell, on_machines
from rbserve.bench.matrix import Node as MatrixNode
from rbserve.bench.placement import Placement
from rbserve.cluster import ClusterNode

BUILD, OTHER = Cell("build", "a", "dnn"), Cell("build", "a", "pnn")
PROFILE = Cell("profile", "a", "gdcn", quiet="machine")
ON_CORE = Cell("profile", "a", "gdcn", quiet="core")


def _node(name: str, cpus: int = 4, slots: int = 0, **labels: str) -> ClusterNode:
    return ClusterNode(name, name, labels, {"CPU": cpus, "latency_slot": slots})


def test_builds_go_beside_and_latency_to_a_slot() -> None:
    nodes = [_node("slot", slots=1), _node("plain")]
    placement = Placement()
    placed = placement.choose(BUILD, nodes)
    assert placed == nodes[1]
    placement.start(BUILD, nodes[1])
    assert placement.choose(PROFILE, nodes) == nodes[0]
    placement.start(PROFILE, nodes[0])
    assert placement.choose(OTHER, nodes) is None, "one build a node, and none beside a measurement"
    placement.end(PROFILE)
    assert placement.choose(OTHER, nodes) == nodes[0]


def test_a_node_that_a_measurement_waits_for_gets_no_further_builds() -> None:
    node = _node("only", slots=1)
    placement = Placement(jobs=2)
    placement.start(BUILD, node)
    assert placement.choose(OTHER, [node]) == node
    assert placement.choose(PROFILE, [node]) is None
    assert placement.choose(OTHER, [node]) is None
    placement.end(BUILD)
    assert placement.choose(PROFILE, [node]) == node
    placement.start(PROFILE, node)
    placement.end(PROFILE)
    assert placement.choose(OTHER, [node]) == node


def test_a_measurement_on_its_core_leaves_the_others_to_builds() -> None:
    node = _node("only", slots=1)
    placement = Placement(jobs=1, latency_cores=1)
    assert (placement.cpus(ON_CORE, node), placement.cpus(BUILD, node)) == (1, 3)
    placement.start(BUILD, node)
    assert placement.choose(ON_CORE, [node]) == node
    placement.start(ON_CORE, node)
    assert placement.choose(msgspec.structs.replace(ON_CORE, model="pnn"), [node]) is None
    placement.end(BUILD)
    assert placement.choose(OTHER, [node]) == node


def test_a_latency_cell_of_a_kind_runs_on_nodes_of_that_kind() -> None:
    nodes = [_node("x", slots=1, kind="old"), _node("y", slots=1, kind="new"), _node("z", kind="new")]
    placement = Placement(label="kind")
    new = msgspec.structs.replace(PROFILE, machine="new")
    assert placement.choose(new, nodes) == nodes[1]
    assert placement.choose(new, nodes[:1]) is None
    assert not placement.can_run(new, nodes[2]), "it has no slot"


@pytest.mark.parametrize(("jobs", "cpus"), [(1, 4), (2, 2), (9, 1)])
def test_builds_of_a_node_share_its_processors(jobs: int, cpus: int) -> None:
    assert Placement(jobs).cpus(BUILD, _node("n")) == cpus
    assert not Placement(jobs).can_run(BUILD, _node("head", cpus=0))
    assert not Placement(jobs).can_run(PROFILE, _node("head", cpus=0, slots=1))


def test_only_latency_cells_are_done_on_every_kind() -> None:
    spread = on_machines([MatrixNode(BUILD), MatrixNode(PROFILE, [BUILD.id])], ["new", "old"])
    assert [node.cell.id for node in spread] == [
        "build.a.dnn", "profile.a.gdcn.new", "profile.a.gdcn.old",
    ]  # fmt: skip
    assert spread[1].needs == [BUILD.id]
