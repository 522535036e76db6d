"""How many replicas a load asks for."""

from types import SimpleNamespace

from moeflux_ray.scaling import TOKENS_A_SECOND, Rate, ScalingPolicy


def wanted(policy, requests, rates):
    context = SimpleNamespace(
        total_num_requests=requests,
        aggregated_metrics={TOKENS_A_SECOND: dict(enumerate(rates))} if rates else None,
    )
    return policy(context)[0]


def test_the_larger_of_requests_and_tokens_counts():
    policy = ScalingPolicy(target_requests=4.0, target_tokens_s=50.0)
    assert wanted(policy, 12, []) == 3.0
    assert wanted(policy, 4, [60.0, 90.0]) == 3.0
    assert wanted(policy, 0, [0.0]) == 0.0
    assert wanted(ScalingPolicy(4.0, None), 4, [1000.0]) == 1.0


def test_a_rate_is_the_growth_a_second():
    rate = Rate()
    assert [rate.of(*look) for look in [(10, 1.0), (30, 5.0), (30, 6.0)]] == [0.0, 5.0, 0.0]
    assert rate.of(5, 7.0) == 0.0
    assert rate.of(6, 7.0) == 0.0
