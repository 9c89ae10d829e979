"""The beta-binomial objective: how often a step's continuations succeed, and how sure the model is of that.

After BetaPRM (Process Rewards with Learned Reliability, 2026, arXiv 2605.15529): the model gives each step a beta
distribution of its success rate, and training maximises the likelihood of the k of n continuations that succeeded. Here
two class logits hold both of its parameters, so that nothing is added to the model: their difference the mean, their
log-sum the concentration. Class probabilities, and with them all that reads scores, are as for any other objective.

B conversations, S steps of the longest one; logits are (..., 2), best class first.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus

_LEAST = 1e-6  # of a parameter of the beta distribution, whose logarithm of the gamma function has a pole at 0


def concentration(logits: Tensor) -> Tensor:
    """Concentration of the beta distribution, above 0: (..., 2) to (...).

    It is the softplus of the logits' log-sum-exp. So it grows with the logits and not with their exponential: a
    language model's own logits, from which training begins, are far from 0.
    """
    return softplus(logits.logsumexp(-1))


def uncertainty(logits: Tensor) -> Tensor:
    """Standard deviation of a step's success rate, in [0, 0.5]: (..., 2) to (...)."""
    probability = logits.softmax(-1)[..., 0]
    return (probability * (1 - probability) / (concentration(logits) + 1)).sqrt()


def beta_binomial_loss(logits: Tensor, targets: Tensor, class_weights: Tensor, continuations: Tensor) -> Tensor:
    """Minus the log-likelihood of k successes of n continuations, times the mean class weight under the target.

    Args:
        logits: (B, S, 2).
        targets: (B, S, 2) shares of continuations that succeeded and failed: k / n and 1 - k / n.
        class_weights: (2,).
        continuations: (B, S) n; below 1 where it is unknown. Such a step counts as one continuation with the expected
            outcome, which is the cross-entropy against the share.

    Returns:
        (B, S) losses.
    """
    weights = (targets * class_weights).sum(-1)
    is_known = continuations >= 1
    n = torch.where(is_known, continuations, 1).to(logits.dtype)
    k = (targets[..., 0] * n).round()
    sure = concentration(logits)
    right, wrong = (sure[..., None] * logits.softmax(-1)).clamp_min(_LEAST).unbind(-1)
    likelihood = (
        _log_binomial(n, k)
        + torch.lgamma(k + right)
        - torch.lgamma(right)
        + torch.lgamma(n - k + wrong)
        - torch.lgamma(wrong)
        + torch.lgamma(right + wrong)
        - torch.lgamma(n + right + wrong)
    )
    expected = (targets * logits.log_softmax(-1)).sum(-1)
    return -weights * torch.where(is_known, likelihood, expected)


def _log_binomial(n: Tensor, k: Tensor) -> Tensor:
    return torch.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)
