"""Losses on the logits of a classifier: from labels, from a teacher, from both.

Shapes: out and teacher (N, C) or (N, C, ...), the classes on axis 1; labels (N) or (N, ...) int64,
IGNORED where there is none. Each is a mean over samples and places, so that the loss of a batch is
the mean of its equal shares. Teachers get no gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

IGNORED = -100
"""The label of a place that has none."""


def distributional(out: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """KL(teacher || student) of the softmaxes, times temperature squared.

    Source: ReActNet (ECCV 2020), section 4.3. Differs: the teacher's entropy, a constant, is taken
    off, so that a perfect student has loss 0; a temperature (Hinton et al. 2015), 1 in the paper.
    """
    want = functional.log_softmax(teacher.detach() / temperature, dim=1)
    got = functional.log_softmax(out / temperature, dim=1)
    divergence = functional.kl_div(got, want, reduction="none", log_target=True).sum(1).mean()
    return divergence * temperature**2


def labelled(
    out: Tensor, labels: Tensor, teacher: Tensor | None = None, share: float = 0.5,
    temperature: float = 1.0, smoothing: float = 0.0,
) -> Tensor:  # fmt: skip
    """Cross entropy with the labels, mixed with `share` of the distributional loss.

    smoothing: of the labels alone. Where no place has a label the cross entropy is 0.
    Source: Hinton, Vinyals and Dean 2015.
    """
    total = functional.cross_entropy(
        out, labels, ignore_index=IGNORED, label_smoothing=smoothing, reduction="sum"
    )
    hard = total / (labels != IGNORED).sum().clamp(min=1)
    if teacher is None:
        return hard
    return (1 - share) * hard + share * distributional(out, teacher, temperature)


def decoupled(
    out: Tensor, teacher: Tensor, labels: Tensor, alpha: float = 1.0, beta: float = 2.0,
    temperature: float = 1.0,
) -> Tensor:  # fmt: skip
    """alpha KL of (label's class, all others) plus beta KL among the others.

    Shapes: out, teacher (N, C) with C > 2.
    Source: DKD (CVPR 2022), equation 7; alpha 1, beta 0.5 to 2 and temperature 1 as GPD takes them.
    Differs: the label's class is left out of the second term, not pushed down by a large number.
    """
    own = functional.one_hot(labels, out.shape[1]).bool()
    rest_of = ~own
    terms = []
    for logits in (teacher.detach(), out):
        scaled = logits / temperature
        log_p = functional.log_softmax(scaled, dim=1)
        rest = log_p[rest_of].view(len(out), -1)
        pair = torch.stack([log_p[own], rest.logsumexp(1)], dim=1)
        terms.append((pair, functional.log_softmax(rest, dim=1)))
    (pair_t, rest_t), (pair_s, rest_s) = terms
    target = functional.kl_div(pair_s, pair_t, reduction="batchmean", log_target=True)
    others = functional.kl_div(rest_s, rest_t, reduction="batchmean", log_target=True)
    return (alpha * target + beta * others) * temperature**2


def softened(out: Tensor, teacher: Tensor, smoothing: float = 0.1) -> Tensor:
    """Cross entropy with the teacher's softmax, `smoothing` of it spread over all classes.

    Source: GPD (ICLR 2025), what its dynamic teacher tells the student.
    """
    log_p = functional.log_softmax(out, dim=1)
    want = functional.softmax(teacher.detach(), dim=1)
    return -((1 - smoothing) * (want * log_p).sum(1) + smoothing * log_p.mean(1)).mean()
