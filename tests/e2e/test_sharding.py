"""How the frozen base lies on two nodes, as `spec.sharding` says or as the plan chooses."""

from collections.abc import Callable

from peftjob_testkit.cluster import Cluster
from peftjob_testkit.kubectl import Object

TWO_BY_TWO = {"nodes": 2, "processesPerNode": 2}


def test_each_node_holds_a_copy_of_its_own_and_the_plan_replicates_what_is_small(
    cluster: Cluster, small_job: Callable[..., Object]
) -> None:
    node = cluster.submit(small_job("by-node", workers=TWO_BY_TWO, sharding="Node"))
    auto = cluster.submit(small_job("by-plan", workers=TWO_BY_TWO, sharding="Auto"))
    plans = {
        name: cluster.kubectl.wait_state(name, "Succeeded", timeout=300)["status"]["plan"] for name in (node, auto)
    }
    for plan in plans.values():
        assert plan["ranks"] == 4
        assert 0 < plan["baseBytesPerRank"] < plan["peakBytesPerRank"] < plan["memoryBytesPerRank"]
    whole = plans[node]["baseParameters"] * 4
    assert (plans[node]["shardGroup"], plans[node]["shardRanks"]) == ("Node", 2)
    assert whole / 2 <= plans[node]["baseBytesPerRank"] <= 0.55 * whole
    assert (plans[auto]["shardGroup"], plans[auto]["shardRanks"]) == ("Replicate", 1)
    assert plans[auto]["baseBytesPerRank"] == whole
