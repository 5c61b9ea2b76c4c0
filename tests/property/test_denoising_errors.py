"""The engine: the equation, batches, streaming, determinism, failures, no traces left behind."""

import logging

import numpy as np
import pytest
import torch
from torch import nn

from diffdx.backbones.denoiser import Denoiser
from diffdx.classification.bank import TrialBank
from diffdx.classification.denoising_errors import denoising_errors, resolve_batch_size
from diffdx.classification.voting import majority_vote
from diffdx.diffusion.process import diffuse, v_target
from diffdx.diffusion.schedule import ShiftedCosine
from diffdx.errors import ConfigError, DataError

SHAPE, SCHEDULE = (2, 8, 8), ShiftedCosine()


class TinyConv(Denoiser):
    """Two random convolutions; class and log-SNR enter between them. Keeps the rows it is given."""

    def __init__(self, num_classes=2, width=8, dropout=0.5):
        super().__init__()
        self.num_classes = num_classes
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.embedding = nn.Embedding(num_classes + 1, width)
            self.first = nn.Conv2d(SHAPE[0], width, 3, padding=1)
            self.last = nn.Conv2d(width, SHAPE[0], 3, padding=1)
        self.dropout = nn.Dropout(dropout)
        self.calls = []

    def forward(self, z_t, logsnr, y):
        self.calls.append((z_t, y))
        h = self.first(z_t) + 0.1 * self.embedding(y)[:, :, None, None]
        h = h * (1 + torch.tanh(logsnr / 5)).view(-1, 1, 1, 1)
        return self.last(self.dropout(nn.functional.silu(h)))


def images(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return list(torch.rand(count, *SHAPE, generator=generator) * 2 - 1)


def run(denoiser, stream, num_trials=21, bank=None, **options):
    bank = bank or TrialBank(size=21)
    return list(
        denoising_errors(denoiser, SCHEDULE, stream, bank, num_trials=num_trials, **options)
    )


def errors_of(results):
    return np.stack([r.errors for r in results])


def test_errors_are_the_mean_squared_v_errors_of_the_bank_s_trials():
    denoiser, bank, (x,) = TinyConv().eval(), TrialBank(seed=3, size=21), images(1)
    (result,) = run(denoiser, [x], bank=bank, batch_size=8)
    key = torch.tensor([bank.key(x)])
    logsnr = SCHEDULE.logsnr(bank.times(key)[0])
    assert np.array_equal(result.logsnr, logsnr.numpy())
    for n in (0, 7, 20):
        eps = bank.noise(key, torch.tensor([n]), SHAPE, "cpu")
        z_t, v = diffuse(x[None], eps, logsnr[n : n + 1]), v_target(x[None], eps, logsnr[n : n + 1])
        for k in range(2):
            with torch.no_grad():
                v_hat = denoiser(z_t, logsnr[n : n + 1], torch.tensor([k]))
            expected = float((v_hat - v).square().mean())
            assert result.errors[k, n] == pytest.approx(expected, rel=1e-5)


def test_the_encoding_is_applied_before_the_noise_but_the_key_is_the_image_s():
    (x,), bank = images(1), TrialBank(size=21)
    (moved,) = run(TinyConv(), [x], bank=bank, encode=lambda z: 2 * z - 1)
    (plain,) = run(TinyConv(), [x], bank=bank)
    assert np.array_equal(moved.logsnr, plain.logsnr)
    (direct,) = run(TinyConv(), [2 * x - 1], bank=bank)
    assert not np.array_equal(moved.logsnr, direct.logsnr)
    assert not np.allclose(moved.errors, plain.errors)


@pytest.mark.parametrize("num_classes", [2, 3])
def test_votes_do_not_depend_on_batch_size_order_or_cuts(num_classes):
    denoiser, stream = TinyConv(num_classes), images(6)
    shuffled = [4, 1, 5, 0, 3, 2]
    whole = errors_of(run(denoiser, stream, batch_size=64))
    variants = [errors_of(run(denoiser, stream, batch_size=b)) for b in (1, 7)]
    moved = errors_of(run(denoiser, [stream[i] for i in shuffled], batch_size=64))
    variants.append(moved[np.argsort(shuffled)])
    cut = [run(denoiser, part, batch_size=64) for part in (stream[:2], stream[2:])]
    variants.append(np.concatenate([errors_of(part) for part in cut]))

    deviation = max(float(np.abs(other - whole).max()) for other in variants)
    best_two = np.sort(whole, axis=1)[:, :2]
    near_tie = best_two[:, 1] - best_two[:, 0] <= 4 * deviation
    votes = np.sort(majority_vote(whole), axis=1)
    clear = votes[:, -1] - votes[:, -2] > near_tie.sum(axis=1)
    assert clear.any()
    for other in variants:
        assert np.allclose(other, whole, rtol=1e-4, atol=0)
        same = other.argmin(axis=1) == whole.argmin(axis=1)
        assert same[~near_tie].all()
        decided = majority_vote(other).argmax(axis=1) == majority_vote(whole).argmax(axis=1)
        assert decided[clear].all()


def test_deterministic_errors_are_equal_to_the_byte():
    denoiser, stream = TinyConv(3), images(5)
    whole = run(denoiser, stream, batch_size=64, deterministic=True)
    for batch_size in (1, 7):
        other = run(denoiser, stream, batch_size=batch_size, deterministic=True)
        assert errors_of(other).tobytes() == errors_of(whole).tobytes()
    backwards = run(denoiser, stream[::-1], deterministic=True)[::-1]
    assert errors_of(backwards).tobytes() == errors_of(whole).tobytes()
    for x, expected in zip(stream, whole, strict=True):
        (alone,) = run(denoiser, [x], deterministic=True)
        assert alone.errors.tobytes() == expected.errors.tobytes()
    assert not torch.are_deterministic_algorithms_enabled()
    # Other kernels may be chosen for other numbers of rows, so there is only one number.
    denoiser.calls.clear()
    run(denoiser, stream, batch_size=7, num_trials=5, deterministic=True)
    assert {len(z_t) for z_t, _ in denoiser.calls} == {63}


def test_a_shorter_run_is_the_beginning_of_a_longer_one():
    denoiser, stream = TinyConv(), images(2)
    whole = run(denoiser, stream, num_trials=21, deterministic=True)
    short = run(denoiser, stream, num_trials=8, deterministic=True)
    assert errors_of(short).tobytes() == np.ascontiguousarray(errors_of(whole)[..., :8]).tobytes()
    assert np.array_equal(short[0].logsnr, whole[0].logsnr[:8])


def test_permuting_the_classes_permutes_the_votes():
    denoiser, stream = TinyConv(3), images(4)
    errors = errors_of(run(denoiser, stream))
    order = [2, 0, 1]
    with torch.no_grad():
        denoiser.embedding.weight[:3] = denoiser.embedding.weight[order].clone()
    moved = errors_of(run(denoiser, stream))
    assert np.allclose(moved, errors[:, order], rtol=1e-5)
    assert np.array_equal(majority_vote(moved), majority_vote(errors)[:, order])


def test_batches_are_full_and_classes_share_their_noisy_image():
    denoiser = TinyConv(3)
    run(denoiser, images(4), num_trials=7, batch_size=10)
    # 3 pairs x 3 classes fit into 10 rows; 28 pairs make 9 full batches and a last one of a pair.
    assert [len(z_t) for z_t, _ in denoiser.calls] == [9] * 9 + [3]
    for z_t, y in denoiser.calls:
        assert y.tolist() == [0, 1, 2] * (len(y) // 3)
        by_pair = z_t.view(-1, 3, *SHAPE)
        assert torch.equal(by_pair, by_pair[:, :1].expand_as(by_pair))


def test_images_are_read_when_needed_and_yielded_when_done():
    taken = []

    def stream():
        for i, x in enumerate(images(50)):
            taken.append(i)
            yield x

    results = denoising_errors(
        TinyConv(), SCHEDULE, stream(), TrialBank(size=5), num_trials=5, batch_size=8
    )
    for expected, result in enumerate(results):
        assert result.index == expected
        # 4 pairs a batch: an image of 5 trials is done when the next one has given 3 at most.
        assert len(taken) <= expected + 2
    assert len(taken) == 50


def test_the_caller_s_modes_and_random_state_are_untouched():
    denoiser = TinyConv()
    denoiser.train()
    denoiser.first.eval()
    random, numpy_random = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    results = denoising_errors(
        denoiser, SCHEDULE, images(3), TrialBank(size=21), num_trials=21, batch_size=4
    )
    for _ in results:
        assert torch.is_grad_enabled()
        modes = [m.training for m in (denoiser, denoiser.first, denoiser.last, denoiser.dropout)]
        assert modes == [True, False, True, True]
    assert torch.equal(torch.get_rng_state(), random)
    assert np.array_equal(np.random.get_state()[1], numpy_random)  # noqa: NPY002
    assert all(p.grad is None for p in denoiser.parameters())


def test_dropout_is_off_while_classifying():
    stream = images(1)
    assert np.array_equal(
        errors_of(run(TinyConv(dropout=0.9).train(), stream)),
        errors_of(run(TinyConv(dropout=0.0).eval(), stream)),
    )


def test_an_unreadable_image_becomes_a_failure_and_the_others_go_on():
    a, b = images(2)
    bad = DataError("broken.png: cut short")
    results = run(TinyConv(), [bad, a, bad, bad, b, bad], batch_size=8)
    assert [r.failure for r in results] == [bad, None, bad, bad, None, bad]
    assert [r.index for r in results] == list(range(6))
    alone = run(TinyConv(), [a, b], batch_size=8)
    assert np.allclose(errors_of([results[1], results[4]]), errors_of(alone), rtol=1e-5)
    assert [r.failure for r in run(TinyConv(), [bad])] == [bad]
    assert run(TinyConv(), []) == []


def test_an_error_that_is_not_finite_is_a_failure_not_a_vote():
    class Overflowing(TinyConv):
        def forward(self, z_t, logsnr, y):
            v_hat = super().forward(z_t, logsnr, y)
            return torch.where((logsnr > 5).view(-1, 1, 1, 1), torch.inf, v_hat)

    (result,) = run(Overflowing(), images(1))
    assert isinstance(result.failure, DataError)
    assert f"{int((result.logsnr > 5).sum())} of 21 trials" in str(result.failure)


class SmallMemory(TinyConv):
    """Runs out of memory above a number of rows."""

    most_rows, error = 4, torch.OutOfMemoryError("CUDA out of memory")

    def forward(self, z_t, logsnr, y):
        if len(z_t) > self.most_rows:
            raise self.error
        return super().forward(z_t, logsnr, y)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        MemoryError(),
    ],
)
def test_out_of_memory_halves_the_batch_and_says_so(error, caplog):
    denoiser = SmallMemory()
    denoiser.error = error
    with caplog.at_level(logging.WARNING):
        results = run(denoiser, images(3), batch_size=16)
    assert [r.message for r in caplog.records] == [
        f"out of memory: batch halved to {rows} rows" for rows in (8, 4)
    ]
    assert np.allclose(errors_of(results), errors_of(run(TinyConv(), images(3))), rtol=1e-4)


def test_out_of_memory_at_one_row_or_in_a_fixed_batch_is_an_error():
    denoiser = SmallMemory()
    with pytest.raises(torch.OutOfMemoryError):
        run(denoiser, images(1), deterministic=True)
    denoiser.most_rows = 0
    with pytest.raises(torch.OutOfMemoryError):
        run(denoiser, images(1))
    denoiser.error = RuntimeError("shapes do not match")
    with pytest.raises(RuntimeError, match="shapes"):
        run(denoiser, images(1))


def test_bf16_concerns_the_network_alone():
    exact, rounded = (
        run(TinyConv(), images(4), precision=precision) for precision in ("fp32", "bf16")
    )
    assert errors_of(rounded).dtype == np.float32
    assert np.array_equal(exact[0].logsnr, rounded[0].logsnr)
    # bf16 keeps 8 bits: each of a few roundings moves v_hat by up to 2^-9 relative.
    assert not np.array_equal(errors_of(rounded), errors_of(exact))
    assert np.allclose(errors_of(rounded), errors_of(exact), rtol=8 * 2**-8)


def test_more_trials_than_the_bank_are_refused_at_once():
    with pytest.raises(ConfigError, match="--bank"):
        denoising_errors(TinyConv(), SCHEDULE, [], TrialBank(size=5), num_trials=6)


def test_the_batch_size_is_resolved_or_refused():
    cpu, cuda = torch.device("cpu"), torch.device("cuda", 0)
    assert [resolve_batch_size("auto", d) for d in (cpu, cuda)] == [64, 512]
    assert resolve_batch_size(7, cpu) == 7
    with pytest.raises(ConfigError, match="--batch-size 0"):
        resolve_batch_size(0, cpu)
