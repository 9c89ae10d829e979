"""The loss of each objective and option: worked by hand on one batch, then properties that must hold on any."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from lightning_modules.objectives.step_loss import LossOptions, StepLoss, step_scores
from lightning_modules.objectives.table import OBJECTIVES

NAN = math.nan

# Two solutions, of three steps and of two; the second step of the second has no Monte Carlo score.
#   P(+)   0.8   0.5   0.25  |  0.9   0.6
#   mc     0.75  0.25  0     |  1     -
#   of     4     8     4     |  16    -
PLUS = torch.tensor([[0.8, 0.5, 0.25], [0.9, 0.6, 0.123]])
MC = torch.tensor([[0.75, 0.25, 0.0], [1.0, NAN, NAN]])
TOTAL = torch.tensor([[4, 8, 4], [16, -1, -1]])
LOGITS = torch.stack([PLUS, 1 - PLUS], -1).log() + 3  # softmax does not see the 3

# Minus logarithms of the probabilities above and of their complements, to six places.
LOG_08, LOG_02 = 0.223144, 1.609438
LOG_05 = 0.693147
LOG_025, LOG_075 = 1.386294, 0.287682
LOG_09, LOG_01 = 0.105361, 2.302585


def loss_of(objective, options=None, threshold=0.0, logits=LOGITS, mc=MC, **others):
    total, weight = StepLoss(objective, threshold, options)(logits, mc, **others)
    return [total.item(), weight.item()]


# ------------------------------------------------------------ worked by hand


def test_value():
    # Labels: + + -  |  +
    assert loss_of("value") == pytest.approx([LOG_08 + LOG_05 + LOG_075 + LOG_09, 4], abs=1e-5)
    assert loss_of("value") == pytest.approx([1.309333, 4], abs=1e-5)
    # Above 0.25: + - -  |  +
    assert loss_of("value", threshold=0.25) == pytest.approx([LOG_08 + LOG_05 + LOG_075 + LOG_09, 4], abs=1e-5)
    # Above 0.8: - - -  |  +
    assert loss_of("value", threshold=0.8) == pytest.approx([LOG_02 + LOG_05 + LOG_075 + LOG_09, 4], abs=1e-5)


def test_outcome_is_value_on_a_single_step():
    last = {"logits": LOGITS[:, :1], "mc": torch.tensor([[0.0], [1.0]])}
    assert loss_of("outcome", **last) == pytest.approx([LOG_02 + LOG_09, 2], abs=1e-5)


def test_soft():
    # 0.75 x 0.223144 + 0.25 x 1.609438 = 0.569717;  0.25 x 0.693147 + 0.75 x 0.693147 = 0.693147
    # 0 x 1.386294 + 1 x 0.287682 = 0.287682;        1 x 0.105361 = 0.105361;  together 1.655907
    assert loss_of("soft") == pytest.approx([1.655907, 4], abs=1e-5)


def test_binomial_weight():
    # 4 x 0.569717 + 8 x 0.693147 + 4 x 0.287682 + 16 x 0.105361 = 10.660548 over 4 + 8 + 4 + 16 continuations
    options = LossOptions(binomial_weight=True)
    assert loss_of("soft", options, num_mc_total=TOTAL) == pytest.approx([10.660548, 32], abs=1e-4)
    # Where numbers are unknown a score counts as one observation.
    unknown = TOTAL.masked_fill(TOTAL == 8, -1)
    assert loss_of("soft", options, num_mc_total=unknown) == pytest.approx([10.660548 - 7 * LOG_05, 25], abs=1e-4)
    assert loss_of("soft", options) == pytest.approx([1.655907, 4], abs=1e-5)


def test_binomial_weight_is_the_binomial_likelihood():
    """Up to the binomial coefficient, which no weight of the model changes."""
    correct = torch.tensor([3, 2, 0, 16])
    likelihood = torch.distributions.Binomial(TOTAL[TOTAL > 0], PLUS[TOTAL > 0]).log_prob(correct.float())
    coefficients = sum(math.log(math.comb(n, k)) for n, k in zip((4, 8, 4, 16), correct.tolist(), strict=True))
    total, _ = loss_of("soft", LossOptions(binomial_weight=True), num_mc_total=TOTAL)
    assert total == pytest.approx(coefficients - likelihood.sum().item(), abs=1e-4)


def test_regression():
    # (0.8 - 0.75)^2 + (0.5 - 0.25)^2 + 0.25^2 + (0.9 - 1)^2 = 0.0025 + 0.0625 + 0.0625 + 0.01
    assert loss_of("regression") == pytest.approx([0.1375, 4], abs=1e-6)


ADVANTAGE = torch.tensor([[[0.5, 0.3, 0.2], [0.2, 0.2, 0.6], [0.1, 0.8, 0.1]]]).log()


@pytest.mark.parametrize(
    ("accuracy", "probabilities"),
    [
        # mc 0.5, 0.25, 0.25: fell, then stayed; the first step rose from 0.25, fell from 0.75, stayed at 0.5.
        (None, [0.6, 0.8]),
        (NAN, [0.6, 0.8]),
        (0.25, [0.5, 0.6, 0.8]),
        (0.75, [0.2, 0.6, 0.8]),
        (0.5, [0.3, 0.6, 0.8]),
    ],
)
def test_advantage(accuracy, probabilities):
    known = None if accuracy is None else torch.tensor([accuracy])
    found = loss_of("advantage", logits=ADVANTAGE, mc=torch.tensor([[0.5, 0.25, 0.25]]), question_accuracy=known)
    assert found == pytest.approx([-sum(map(math.log, probabilities)), len(probabilities)], abs=1e-5)


def test_scores():
    # 0.5 - 0.2, 0.2 - 0.6, 0.1 - 0.1
    assert step_scores(ADVANTAGE, OBJECTIVES["advantage"].class_values)[0].tolist() == pytest.approx(
        [0.3, -0.4, 0.0], abs=1e-6
    )
    for objective in ("value", "outcome", "soft", "regression"):
        assert step_scores(LOGITS, OBJECTIVES[objective].class_values).flatten().tolist() == pytest.approx(
            PLUS.flatten().tolist(), abs=1e-6
        )


@pytest.mark.parametrize("objective", ["value", "soft", "regression"])
def test_early_stop(objective):
    # Above 0.25 the second step of the first solution is wrong: it stays, the third goes.
    options = LossOptions(early_stop=True)
    expected = {
        "value": LOG_08 + LOG_05 + LOG_09,
        "soft": 0.569717 + LOG_05 + LOG_09,
        "regression": 0.0025 + 0.0625 + 0.01,
    }[objective]
    assert loss_of(objective, options, threshold=0.25) == pytest.approx([expected, 3], abs=1e-5)
    # Above 0 it is the third, which is the last.
    assert loss_of(objective, options) == loss_of(objective)


def test_early_stop_with_advantage_is_by_value():
    # From 1 to 0.5 the chances fell, but the step is not wrong; from 0 on nothing can be told.
    mc = torch.tensor([[1.0, 0.5, 0.0, 0.0]])
    logits = torch.cat([ADVANTAGE, ADVANTAGE[:, :1]], 1)
    options = LossOptions(early_stop=True)
    assert loss_of("advantage", options, logits=logits, mc=mc) == pytest.approx(
        [-math.log(0.6) - math.log(0.1), 2], abs=1e-5
    )


def test_class_weights():
    options = LossOptions(class_weights=[0.5, 4.0])
    # + + - | +: 0.5 (0.223144 + 0.693147 + 0.105361) + 4 x 0.287682 = 1.661554 over 0.5 + 0.5 + 4 + 0.5
    assert loss_of("value", options) == pytest.approx([1.661554, 5.5], abs=1e-5)
    # 0.5 x 0.75 x 0.223144 + 4 x 0.25 x 1.609438                  = 1.693117 of 0.375 + 1
    # 0.5 x 0.25 x 0.693147 + 4 x 0.75 x 0.693147                  = 2.166085 of 0.125 + 3
    # 4 x 0.287682 + 0.5 x 0.105361                                = 1.203409 of 4 + 0.5
    assert loss_of("soft", options) == pytest.approx([5.062611, 9.0], abs=1e-5)
    # 1.375 x 0.0025 + 3.125 x 0.0625 + 4 x 0.0625 + 0.5 x 0.01    = 0.453750
    assert loss_of("regression", options) == pytest.approx([0.45375, 9.0], abs=1e-5)
    # The mean is weighted: twice the weights are the same loss.
    doubled = StepLoss("value", 0.0, LossOptions(class_weights=[1.0, 8.0]))(LOGITS, MC).mean
    assert StepLoss("value", 0.0, options)(LOGITS, MC).mean.item() == pytest.approx(doubled.item())


def test_focal_gamma():
    # 1 - p of the right class: 0.2, 0.5, 0.25 | 0.1, squared
    # 0.04 x 0.223144 + 0.25 x 0.693147 + 0.0625 x 0.287682 + 0.01 x 0.105361 = 0.201246
    options = LossOptions(focal_gamma=2.0)
    assert loss_of("value", options) == pytest.approx([0.201246, 4], abs=1e-5)
    # |mc - P(+)|: 0.05, 0.25, 0.25 | 0.1
    # 0.0025 x 0.569717 + 0.0625 x 0.693147 + 0.0625 x 0.287682 + 0.01 x 0.105361 = 0.063780
    assert loss_of("soft", options) == pytest.approx([0.063780, 4], abs=1e-5)


def test_averaging_over_samples():
    # (0.223144 + 0.693147 + 0.287682) / 3 = 0.401324, and 0.105361 / 1
    options = LossOptions(averaging="sample")
    assert loss_of("value", options) == pytest.approx([0.506685, 2], abs=1e-5)
    # A solution without any label is none of them.
    nothing = torch.cat([MC, torch.full((1, 3), NAN)])
    more = torch.cat([LOGITS, LOGITS[:1]])
    assert loss_of("value", options, logits=more, mc=nothing) == pytest.approx([0.506685, 2], abs=1e-5)
    # With class weights the mean of a solution is weighted: (0.458146 + 1.150728) / 5, and 0.105361
    weighted = LossOptions(averaging="sample", class_weights=[0.5, 4.0])
    assert loss_of("value", weighted) == pytest.approx([0.321775 + LOG_09, 2], abs=1e-5)


def test_right_steps():
    assert StepLoss("value", 0.0).right_steps(MC).tolist() == [[True, True, False], [True, False, False]]
    assert StepLoss("advantage", 0.0).right_steps(MC).tolist() == [[True, True, False], [True, False, False]]
    stopped = StepLoss("soft", 0.5, LossOptions(early_stop=True))
    assert stopped.right_steps(torch.tensor([[1.0, 0.5, 1.0]])).tolist() == [[True, False, False]]


# ----------------------------------------------------------------- no label

ALL = [
    ("value", None),
    ("outcome", LossOptions(class_weights=[1.0, 9.0])),
    ("advantage", LossOptions(early_stop=True, averaging="sample")),
    ("soft", LossOptions(binomial_weight=True, focal_gamma=0.5)),
    ("regression", LossOptions(averaging="sample")),
]


@pytest.mark.parametrize(("objective", "options"), ALL)
def test_a_batch_without_labels_has_no_loss_and_gradients_of_zero(objective, options):
    logits = torch.randn(2, 3, len(OBJECTIVES[objective].class_values), requires_grad=True)
    loss = StepLoss(objective, 0.0, options)(
        logits, torch.full((2, 3), NAN), num_mc_total=torch.full((2, 3), -1), question_accuracy=torch.tensor([0.5, NAN])
    )
    assert (loss.total.item(), loss.weight.item(), loss.mean.item()) == (0.0, 0.0, 0.0)
    loss.mean.backward()
    assert logits.grad.eq(0).all()


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_certain_and_right_judgements_have_finite_gradients(gamma):
    logits = torch.tensor([[[200.0, -200.0], [-200.0, 200.0], [0.0, 0.0]]], requires_grad=True)
    for objective, mc in (("value", [1.0, 0.0, 1.0]), ("soft", [1.0, 0.0, 0.5])):
        loss = StepLoss(objective, 0.0, LossOptions(focal_gamma=gamma))(logits, torch.tensor([mc]))
        (gradient,) = torch.autograd.grad(loss.mean, logits)
        assert gradient.isfinite().all()


# --------------------------------------------------------------- wrong options


@pytest.mark.parametrize(
    ("objective", "options", "message"),
    [
        ("value", {"class_weights": [1.0, 2.0, 3.0]}, "loss.class_weights needs 2 weights for objective 'value'"),
        ("advantage", {"class_weights": [1.0, 2.0]}, "loss.class_weights needs 3 weights for objective 'advantage'"),
        ("value", {"class_weights": [1.0, -2.0]}, "loss.class_weights must be finite, not negative and not all 0"),
        ("value", {"class_weights": [0.0, 0.0]}, "loss.class_weights must be finite, not negative and not all 0"),
        ("value", {"class_weights": [1.0, math.inf]}, "loss.class_weights must be finite"),
        ("value", {"focal_gamma": -1.0}, "loss.focal_gamma must be at least 0"),
        ("value", {"focal_gamma": NAN}, "loss.focal_gamma must be at least 0"),
        (
            "regression",
            {"focal_gamma": 2.0},
            "loss.focal_gamma does not go with objective 'regression', only with value, advantage, outcome, soft;",
        ),
        (
            "value",
            {"binomial_weight": True},
            "loss.binomial_weight does not go with objective 'value', only with soft; leave it out",
        ),
        (
            "outcome",
            {"early_stop": True},
            "loss.early_stop does not go with objective 'outcome', only with value, advantage, soft, regression, beta_",
        ),
        ("value", {"averaging": "batch"}, "loss.averaging must be 'step' or 'sample', got 'batch'"),
    ],
)
def test_wrong_options(objective, options, message):
    with pytest.raises(ValueError, match=message):
        StepLoss(objective, 0.0, LossOptions(**options))


# ------------------------------------------------------------------ properties

SCORES = st.one_of(st.none(), st.integers(0, 16))


@st.composite
def batches(draw, classes=2):
    """Logits (B, S, K), scores (B, S) and numbers of continuations (B, S)."""
    rows, steps = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    cells = st.lists(st.lists(SCORES, min_size=steps, max_size=steps), min_size=rows, max_size=rows)
    mc = torch.tensor([[NAN if score is None else score / 16 for score in row] for row in draw(cells)])
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    logits = 3 * torch.randn(rows, steps, classes, generator=generator, dtype=torch.float64)
    totals = torch.randint(1, 17, (rows, steps), generator=generator).masked_fill(mc.isnan(), -1)
    return logits, mc.double(), totals


OPTIONS = st.builds(
    LossOptions,
    early_stop=st.booleans(),
    class_weights=st.sampled_from([None, [1.0, 9.0], [0.25, 0.0]]),
    focal_gamma=st.sampled_from([0.0, 1.0, 2.0]),
    averaging=st.sampled_from(["step", "sample"]),
    binomial_weight=st.booleans(),
)


def close(one, other):
    torch.testing.assert_close(tuple(one), tuple(other), rtol=1e-9, atol=1e-9)


@given(batches(), OPTIONS, st.integers(1, 3))
def test_padding_does_not_count(batch, options, more):
    logits, mc, totals = batch
    loss = StepLoss("soft", 0.25, options)
    rows, steps = mc.shape
    padded = (
        torch.cat([logits, torch.full((rows, more, 2), math.inf, dtype=torch.float64)], 1),
        torch.cat([mc, torch.full((rows, more), NAN)], 1),
        torch.cat([totals, torch.full((rows, more), -1)], 1),
    )
    close(loss(padded[0], padded[1], num_mc_total=padded[2]), loss(logits, mc, num_mc_total=totals))
    # Nor do solutions without a label.
    below = (torch.full((more, steps, 2), NAN, dtype=torch.float64), torch.full((more, steps), NAN))
    with_more = loss(
        torch.cat([logits, below[0]]),
        torch.cat([mc, below[1]]),
        num_mc_total=torch.cat([totals, torch.full((more, steps), -1)]),
    )
    close(with_more, loss(logits, mc, num_mc_total=totals))


@given(batches(), OPTIONS, st.sampled_from(["value", "soft"]))
def test_what_is_left_out_has_no_part(batch, options, objective):
    logits, mc, totals = batch
    options = LossOptions(**vars(options) | {"binomial_weight": options.binomial_weight and objective == "soft"})
    loss = StepLoss(objective, 0.25, options)
    left_out = loss.targets(mc).isnan().any(-1)
    wild = torch.where(left_out[..., None], 1e6 * torch.rand_like(logits) - 5e5, logits)
    close(loss(wild, mc, num_mc_total=totals), loss(logits, mc, num_mc_total=totals))
    logits.requires_grad_()
    (gradient,) = torch.autograd.grad(loss(logits, mc, num_mc_total=totals).mean, logits)
    assert gradient[left_out].eq(0).all()


@given(batches(), OPTIONS, st.randoms(use_true_random=False))
def test_the_order_of_solutions_does_not_count(batch, options, random):
    logits, mc, totals = batch
    order = random.sample(range(len(mc)), len(mc))
    loss = StepLoss("soft", 0.25, options)
    close(loss(logits[order], mc[order], num_mc_total=totals[order]), loss(logits, mc, num_mc_total=totals))


@given(batches(), OPTIONS, st.randoms(use_true_random=False))
def test_the_order_of_steps_does_not_count_without_early_stop(batch, options, random):
    logits, mc, totals = batch
    order = random.sample(range(mc.shape[1]), mc.shape[1])
    loss = StepLoss("soft", 0.25, LossOptions(**vars(options) | {"early_stop": False}))
    close(loss(logits[:, order], mc[:, order], num_mc_total=totals[:, order]), loss(logits, mc, num_mc_total=totals))


@given(batches(), OPTIONS)
def test_parts_add_up(batch, options):
    """Totals and weights of the solutions one by one make those of the batch, however it is cut over ranks."""
    logits, mc, totals = batch
    loss = StepLoss("soft", 0.25, options)
    parts = [loss(logits[[i]], mc[[i]], num_mc_total=totals[[i]]) for i in range(len(mc))]
    close(
        [sum(part.total for part in parts), sum(part.weight for part in parts)], loss(logits, mc, num_mc_total=totals)
    )


@given(batches(), OPTIONS)
def test_soft_labels_without_doubt_are_value_labels(batch, options):
    logits, mc, _ = batch
    rounded = torch.where(mc.isnan(), mc, (mc > 0.5).double())
    options = LossOptions(**vars(options) | {"binomial_weight": False})
    close(StepLoss("soft", 0.5, options)(logits, rounded), StepLoss("value", 0.5, options)(logits, rounded))


@given(batches(), st.sampled_from([None, [1.0, 9.0], [0.25, 0.0]]))
def test_value_is_the_cross_entropy_of_pytorch(batch, weights):
    logits, mc, _ = batch
    labels = torch.where(mc.isnan(), -100, (mc <= 0.25).long())
    found = StepLoss("value", 0.25, LossOptions(class_weights=weights))(logits, mc)
    weight = None if weights is None else torch.tensor(weights, dtype=torch.float64)
    expected = cross_entropy(logits.flatten(0, 1), labels.flatten(), weight=weight, reduction="mean")
    if found.weight > 0:
        torch.testing.assert_close(found.mean, expected)
    else:
        assert expected.isnan()


@given(batches(), st.sampled_from([None, [1.0, 9.0], [0.25, 0.0]]))
def test_soft_is_the_cross_entropy_of_pytorch(batch, weights):
    logits, mc, _ = batch
    found = StepLoss("soft", 0.0, LossOptions(class_weights=weights))(logits, mc)
    known = ~mc.isnan()
    weight = None if weights is None else torch.tensor(weights, dtype=torch.float64)
    targets = torch.stack([mc[known], 1 - mc[known]], -1)
    expected = cross_entropy(logits[known], targets, weight=weight, reduction="sum")
    torch.testing.assert_close(found.total, expected)
    if weights is None:
        difference = (logits[..., 0] - logits[..., 1])[known]
        torch.testing.assert_close(
            found.total, binary_cross_entropy_with_logits(difference, mc[known], reduction="sum")
        )


@given(batches(classes=3), st.booleans())
def test_advantage_is_the_sign_of_the_change(batch, is_known):
    logits, mc, _ = batch
    accuracy = torch.full((len(mc),), 0.5, dtype=torch.float64) if is_known else None
    total, count = 0.0, 0
    for row in range(len(mc)):
        before = 0.5 if is_known else NAN
        for step in range(mc.shape[1]):
            now = mc[row, step].item()
            if not math.isnan(now - before):
                label = {1: 0, 0: 1, -1: 2}[(now > before) - (now < before)]
                total -= logits[row, step].log_softmax(-1)[label].item()
                count += 1
            before = now
    found = StepLoss("advantage", 0.0)(logits, mc, question_accuracy=accuracy)
    assert [found.total.item(), found.weight.item()] == pytest.approx([total, count])
