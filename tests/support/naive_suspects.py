"""What dist_rmd/suspects computes, written naively, with full matrices and in double precision."""

import numpy as np


def neighbours(points, classes, k):
    """By a full matrix in double precision."""
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    cosine = unit @ unit.T
    np.fill_diagonal(cosine, -np.inf)
    nearest = np.argsort(-cosine, axis=1)[:, :k]
    shares = []
    for row, near in zip(cosine, nearest, strict=True):
        weights = np.exp(row[near] / 0.3)
        shares.append((weights[:, None] * classes[near]).sum(0) / weights.sum())
    return nearest, np.array(shares)


def gaussians(points, classes, fold, folds):
    """Densities of Gaussians around weighted means, in double precision."""
    result = np.zeros_like(classes)
    for number in range(folds):
        x, q = points[fold != number], classes[fold != number]
        weights = q.sum(0)
        means = [(q[:, [c]] * x).sum(0) / weights[c] for c in range(classes.shape[1])]
        covariance = sum(
            q[i, c] * np.outer(x[i] - m, x[i] - m) for i in range(len(x)) for c, m in enumerate(means)
        ) / len(x)
        covariance = 0.9 * covariance + 0.1 * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
        for i in np.flatnonzero(fold == number):
            away = [points[i] - m for m in means]
            density = [w * np.exp(-d @ np.linalg.solve(covariance, d) / 2) for d, w in zip(away, weights, strict=True)]
            result[i] = np.array(density) / np.sum(density)
    return result


def suspicion(features, given, classes):
    """(probability that the label is right, most probable class, fewest and most wrong labels), in double precision."""
    count = len(features)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    values, axes = np.linalg.eigh(np.cov(unit.T, bias=True))
    points = (unit - unit.mean(0)) @ axes / np.sqrt(values + 0.1 * values.mean())
    k = min(160, count // (2 * classes))
    fold = np.random.default_rng(0).permutation(count) % 5

    def opinion(q):
        shares = neighbours(points, q, k)[1]
        return ((k * shares + q.mean(0)) / (k + 1) + gaussians(points, q, fold, 5)) / 2

    def posterior(b, matrix):
        q = np.array([b[i] * matrix[:, given[i]] for i in range(count)])
        return q / q.sum(1, keepdims=True)

    def counted(q):
        counts = np.zeros((classes, classes))
        for row, label in zip(q, given, strict=True):
            counts[:, label] += row
        return counts

    def mixed(counts):
        counts = counts + 1
        wrong = 1 - np.trace(counts) / counts.sum()
        symmetric = np.where(np.eye(classes), 1 - wrong, wrong / (classes - 1))
        return (counts / counts.sum(1, keepdims=True) + 2 * symmetric) / 3

    def likeliest(b):
        matrix = np.where(np.eye(classes), 0.7, 0.3 / (classes - 1))
        for _ in range(30):
            counts = counted(posterior(b, matrix)) + 0.1
            matrix = counts / counts.sum(1, keepdims=True)
        return matrix

    def confidently_wrong(b):
        usual = [b[given == c, c].mean() for c in range(classes)]
        confident = np.zeros((classes, classes))
        for i in range(count):
            sure = [c for c in range(classes) if b[i, c] >= usual[c]]
            if sure:
                confident[max(sure, key=lambda c: b[i, c]), given[i]] += 1
        return [(given == c).sum() * (1 - confident[c, c] / confident[:, c].sum()) for c in range(classes)]

    b = opinion(np.eye(classes)[given])
    q = posterior(b, mixed(counted(np.eye(classes)[b.argmax(1)])))
    b = opinion(q)
    right = posterior(b, mixed(counted(q)))[np.arange(count), given]
    for _ in range(4):
        q = posterior(b, likeliest(b))
        least = [sum(1 - q[i, given[i]] for i in range(count) if given[i] == c) for c in range(classes)]
        most = confidently_wrong(b)
        if 2 * sum(least) <= sum(most):
            return right, q.argmax(1), least, most
        b = opinion(q)
    return (right + q[np.arange(count), given]) / 2, q.argmax(1), least, most
