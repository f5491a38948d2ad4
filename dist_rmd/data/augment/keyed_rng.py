"""Random numbers keyed by the sample: every draw is a hash of (seed, epoch, view, name of the draw, sample index).

A draw is therefore the same in any batch, worker and rank, and after any restart.  The host hashes everything but the
sample's index into a key; the device mixes the index in, with integer arithmetic that is exact everywhere.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
_ORDER = int.from_bytes(b"ordr", "big")


def epoch_order(n: int, seed: int, epoch: int) -> np.ndarray:
    """The permutation of 0..n-1 (int64) in which epoch `epoch` visits its n samples.  `seed` and `epoch` are >= 0."""
    # Raw Philox words are the same in every numpy version; Generator.permutation makes no such promise.  The word
    # _ORDER keeps this draw apart from the draw of label noise: with a common one, epoch 0 would visit wrong labels
    # first wherever both have the same seed.
    words = np.random.Philox(np.random.SeedSequence([_ORDER, seed, epoch])).random_raw(n)
    return np.argsort(words, kind="stable")


def shard(size: int, rank: int, world: int) -> slice:
    """The contiguous part of a global batch of `size` samples that rank `rank` takes; sizes differ by at most 1."""
    smallest, larger = divmod(size, world)
    start = rank * smallest + min(rank, larger)
    return slice(start, start + smallest + (rank < larger))


def key(seed: int, epoch: int, view: int, what: str) -> int:
    """The 64-bit key of the draw named `what`; the key is the draw itself where a whole batch shares a draw."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{epoch}/{view}/{what}".encode(), digest_size=8).digest(), "little")


def keys(seed: int, epoch: int, view: int, whats: Sequence[str]) -> Tensor:
    """The keys of the k draws named `whats`, for `draw`: k x 2 words of 32 bits each (int64)."""
    folded = [key(seed, epoch, view, what) for what in whats]
    return torch.tensor([[word >> 32, word & _MASK] for word in folded])


def draw(keys: Tensor, indices: Tensor) -> Tensor:
    """k x b integers (int64), uniform in [0, 2^32), from k x 2 words `keys` and b sample indices < 2^32."""
    first, second = keys[:, :1], keys[:, 1:]
    # Two rounds with two words: after one round, keys that differ in few bits would give equal draws to other indices.
    return _mix(_mix(indices ^ first) ^ second)


def bits(seed: int, epoch: int, view: int, what: str, indices: Tensor) -> Tensor:
    """b integers (int64), uniform in [0, 2^32), for b sample indices, on the device of `indices`."""
    return draw(keys(seed, epoch, view, [what]).to(indices.device), indices)[0]


def uniform(seed: int, epoch: int, view: int, what: str, indices: Tensor) -> Tensor:
    """b float32, uniform in [0, 1), for b sample indices, on the device of `indices`."""
    return unit(bits(seed, epoch, view, what, indices))


def unit(bits: Tensor) -> Tensor:
    """float32, uniform in [0, 1), from 32 bits: the top 24 of them, which float32 holds exactly."""
    return (bits >> 8).to(torch.float32) * 2**-24


def normal(bits: Tensor) -> Tensor:
    """float64, standard normal, from 32 bits: the quantile at the middle of each of 2^32 equal parts of (0, 1).

    float32 would round the last parts up to 1, whose quantile is infinite.
    """
    return torch.special.ndtri((bits.double() + 0.5) * 2**-32)


def below(bits: Tensor, limit: int | Tensor) -> Tensor:
    """Uniform integers (int64) in [0, limit) from 32 bits; `limit` < 2^31."""
    return (bits * limit) >> 32


def _mix(x: Tensor) -> Tensor:
    """A bijection of 32-bit words in which every output bit depends on every input bit.

    Constants by T. Ettinger (github.com/skeeto/hash-prospector, issue 19); both are < 2^31, so int64 does not overflow.
    """
    x = x ^ (x >> 16)
    x = (x * 0x21F0AAAD) & _MASK
    x = x ^ (x >> 15)
    x = (x * 0x735A2D97) & _MASK
    return x ^ (x >> 15)
