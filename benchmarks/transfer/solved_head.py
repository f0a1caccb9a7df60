"""A head that is trained to convergence on the features of the frozen body, by scikit-learn."""

from __future__ import annotations

import numpy as np

STRENGTHS = (1e-2, 1e-1, 1.0, 10.0, 100.0, 1000.0)  # inverse strengths of the L2 regularization
N_FOLDS = 5


def solve_head(features: np.ndarray, y: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return kernel and bias of the multinomial logistic regression on the features.

    The L2 regularization is the one with the lowest mean loss over parts that are held out of the
    training data in turn.

    Args:
        features: Of shape `(n_examples, n_features)`.
        y: The class of each example, from 0 on; at least two examples per class.
        seed: Int: seed of the parts.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_score
    from threadpoolctl import threadpool_limits

    scale = float(np.std(features)) or 1.0  # one number, so the kernel only has to be divided by it
    scaled = features / scale
    folds = StratifiedKFold(min(N_FOLDS, np.bincount(y).min()), shuffle=True, random_state=seed)

    def model(strength: float) -> LogisticRegression:
        return LogisticRegression(C=strength, max_iter=5000)

    # Matrices this small take longer with more threads.
    with threadpool_limits(1):
        losses = [
            -cross_val_score(model(strength), scaled, y, cv=folds, scoring="neg_log_loss").mean()
            for strength in STRENGTHS
        ]
        fitted = model(STRENGTHS[int(np.argmin(losses))]).fit(scaled, y)
    return (fitted.coef_.T / scale).astype("float32"), fitted.intercept_.astype("float32")
