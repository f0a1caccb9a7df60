"""Slow references in plain Python and NumPy float64, written from the formulas."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np


def sgdr_cycles(first_decay_steps: int, t_mul: float, until: int) -> list[tuple[int, int]]:
    """Start and length of every SGDR cycle that starts by step `until`, one after the other."""
    cycles: list[tuple[int, int]] = []
    start = 0
    while start <= until:
        length = round(first_decay_steps * float(t_mul) ** len(cycles))
        cycles.append((start, length))
        start += length
    return cycles


def sgdr_rate(
    step: int,
    initial_learning_rate: float,
    first_decay_steps: int,
    t_mul: float,
    m_mul: float = 1.0,
    alpha: float = 0.0,
    warmup_steps: int = 0,
) -> float:
    """SGDR (Loshchilov and Hutter, 2017, equation 5) by walking through the cycles."""
    if step < warmup_steps:
        return initial_learning_rate * step / warmup_steps
    step -= warmup_steps
    if t_mul == 1:
        cycle, t = divmod(step, first_decay_steps)
        length = first_decay_steps
    else:
        cycles = sgdr_cycles(first_decay_steps, t_mul, step)
        cycle = len(cycles) - 1
        start, length = cycles[-1]
        t = step - start
    peak = initial_learning_rate * m_mul**cycle
    floor = alpha * peak
    return floor + (peak - floor) * (1 + math.cos(math.pi * (t / length))) / 2


def article_sgdr_rates(
    maximum: float, iterations: int, cycle_mult: int, batches: int
) -> list[float]:
    """The rate each batch runs at under the article's SGDR callback, batch by batch."""
    rate = maximum
    rates = []
    count, length = 0, iterations
    for _ in range(batches):
        rates.append(rate)
        count += 1
        if count == length:
            count = 0
            length *= cycle_mult
        rate = maximum / 2 * (1 + math.cos(math.pi * count / length))
    return rates


def fastai_cosine(start: float, end: float, position: float) -> float:
    """fastai's cosine from `start` at position 0 to `end` at position 1."""
    return start + (1 + math.cos(math.pi * (1 - position))) * (end - start) / 2


def fastai_one_cycle(
    step: int, maximum: float, total: int, pct_start: float, div: float, div_final: float
) -> float:
    """fastai's `fit_one_cycle`: the rate of batch `step` of `total`."""
    position = min(step / total, 1.0)
    if position < pct_start:
        return fastai_cosine(maximum / div, maximum, position / pct_start)
    fall = (position - pct_start) / (1 - pct_start)
    return fastai_cosine(maximum, maximum / div_final, fall)


def triangular_rates(
    base: float, maximum: float, step_size: int, mode: str, gamma: float, steps: int
) -> list[float]:
    """Smith's cyclical learning rates (2017, section 3), walking up and down batch by batch."""
    height, direction, top = 0, 1, maximum
    rates = []
    for step in range(steps):
        rate = base + (top - base) * height / step_size
        rates.append(rate * gamma**step if mode == "exp_range" else rate)
        height += direction
        if height == step_size:
            direction = -1
        elif height == 0:
            direction = 1
            if mode == "triangular2":
                top = base + (top - base) / 2
    return rates


def article_adam(
    parameters: Sequence[np.ndarray],
    gradients: Sequence[Sequence[np.ndarray]],
    rates: Sequence[float],
    *,
    decay: float = 0.0,
    beta_1: float = 0.9,
    beta_2: float = 0.999,
    epsilon: float = 1e-7,
    amsgrad: bool = False,
    constraints: Sequence[Callable[[np.ndarray], np.ndarray] | None] | None = None,
) -> list[np.ndarray]:
    """The article's Adam with a rate for every parameter, in float64.

    Args:
        parameters: Where they start.
        gradients: One list per step with one gradient per parameter.
        rates: One rate per parameter.
        decay: The rate of step `t = 1, 2, ...` is divided by `1 + decay * (t - 1)`.
        constraints: What each parameter is put through after its update, or `None`.
    """
    p = [np.asarray(value, np.float64) for value in parameters]
    m = [np.zeros_like(value) for value in p]
    v = [np.zeros_like(value) for value in p]
    vhat = [np.zeros_like(value) for value in p]
    constraints = constraints or [None] * len(p)
    for t, step_gradients in enumerate(gradients, start=1):
        for i, gradient in enumerate(step_gradients):
            g = np.asarray(gradient, np.float64)
            lr = rates[i] / (1 + decay * (t - 1))
            a = lr * np.sqrt(1 - beta_2**t) / (1 - beta_1**t)
            m[i] = beta_1 * m[i] + (1 - beta_1) * g
            v[i] = beta_2 * v[i] + (1 - beta_2) * g**2
            vhat[i] = np.maximum(vhat[i], v[i])
            p[i] = p[i] - a * m[i] / (np.sqrt(vhat[i] if amsgrad else v[i]) + epsilon)
            if constraints[i] is not None:
                p[i] = constraints[i](p[i])
    return p


def torch_one_cycle_adam(
    values: np.ndarray,
    gradients: np.ndarray,
    max_lr: float,
    total_steps: int,
    pct_start: float = 0.3,
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
    base_momentum: float = 0.85,
    max_momentum: float = 0.95,
    beta_2: float = 0.999,
    epsilon: float = 1e-7,
) -> np.ndarray:
    """Return the values after PyTorch's Adam under its `OneCycleLR`, with cycled momentum.

    The rate and `beta_1` of a step come from the scheduler; Adam corrects its bias with the
    `beta_1` of that step. (PyTorch's default epsilon is 1e-8.)
    """
    initial = max_lr / div_factor
    ends = (pct_start * total_steps - 1, total_steps - 1)
    values = np.asarray(values, np.float64)
    m, v = np.zeros_like(values), np.zeros_like(values)
    for step in range(total_steps):
        if step <= ends[0]:
            share = step / ends[0]
            rate, beta_1 = initial, max_momentum
            to_rate, to_beta = max_lr, base_momentum
        else:
            share = (step - ends[0]) / (ends[1] - ends[0])
            rate, beta_1 = max_lr, base_momentum
            to_rate, to_beta = initial / final_div_factor, max_momentum
        cosine = (np.cos(np.pi * share) + 1) / 2
        rate, beta_1 = to_rate + (rate - to_rate) * cosine, to_beta + (beta_1 - to_beta) * cosine
        g = np.asarray(gradients[step], np.float64)
        m = beta_1 * m + (1 - beta_1) * g
        v = beta_2 * v + (1 - beta_2) * g**2
        correction = np.sqrt(1 - beta_2 ** (step + 1)) / (1 - beta_1 ** (step + 1))
        values = values - rate * correction * m / (np.sqrt(v) + epsilon)
    return values
