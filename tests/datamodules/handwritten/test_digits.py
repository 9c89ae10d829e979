import numpy as np
import pytest
from sklearn.datasets import load_digits

from datamodules.handwritten.digits import LOOK_ALIKES, DigitPool, MisreadPool, draw_picture, split_digit_pools
from datamodules.handwritten.families import FAMILIES
from datamodules.handwritten.world import WorldSize

SHARES = WorldSize().digit_shares


def contents(pool):
    return [(16 * image).astype(np.uint8).tobytes() for image in pool.images]


@pytest.mark.parametrize("seed", [0, 1])
def test_pools_share_no_image_and_keep_their_labels(seed):
    digits = load_digits()
    label_of = {
        image.astype(np.uint8).tobytes(): label for image, label in zip(digits.images, digits.target, strict=True)
    }
    assert len(label_of) == 1797  # no image is there twice, so that contents tell images apart
    pools = split_digit_pools(SHARES, seed)
    seen = set()
    for name, pool in pools.items():
        images = contents(pool)
        assert [label_of[image] for image in images] == pool.labels.tolist()
        assert len(images) == pytest.approx(SHARES[name] * 1797, abs=10)
        assert set(pool.labels) == set(range(10))
        assert not seen & set(images)
        seen |= set(images)
    assert len(seen) == sum(len(pool.labels) for pool in pools.values())


def test_misreadings_name_the_look_alike_of_a_digit_that_is_shown():
    digits = split_digit_pools(SHARES)["test"]
    label_of = {image.tobytes(): label for image, label in zip(digits.images, digits.labels, strict=True)}
    pool, generator = MisreadPool(digits.images, digits.labels, share=0.3), np.random.default_rng(0)
    read = {value: [] for value in range(10)}
    for _ in range(8000):
        value, pixels = pool.draw(generator)
        read[label_of[pixels.tobytes()]].append(value)
    for shown, values in read.items():
        assert set(values) == {shown, LOOK_ALIKES.get(shown, shown)}
        wrong = sum(value != shown for value in values) / len(values)
        # Five standard deviations of a binomial share of some 800 draws.
        assert wrong == pytest.approx(0.3 if shown in LOOK_ALIKES else 0.0, abs=0.08)


def test_look_alikes_never_make_up_for_each_other():
    """Misreadings only make a sum smaller, and one changes its ones digit by enough to be in another choice."""
    assert all(other < shown and other not in LOOK_ALIKES for shown, other in LOOK_ALIKES.items())
    assert all((shown - other) % 10 > 1 for shown, other in LOOK_ALIKES.items())


def test_pools_are_fixed_by_the_seed():
    first, second, other = (split_digit_pools(SHARES, seed) for seed in (0, 0, 1))
    assert contents(first["test"]) == contents(second["test"])
    assert contents(first["test"]) != contents(other["test"])


@pytest.mark.parametrize("shares", [{"a": 0.6, "b": 0.5}, {"a": 0.0, "b": 0.5}, {"a": -0.1}])
def test_impossible_shares(shares):
    with pytest.raises(ValueError, match="shares of the digit pools must be positive and sum to at most 1"):
        split_digit_pools(shares)


def test_draws_come_from_the_pool_alone():
    pool = DigitPool(np.stack([np.full((8, 8), value, np.float32) for value in (0.1, 0.2)]), np.array([4, 7]))
    drawn = [pool.draw(np.random.default_rng(seed)) for seed in range(50)]
    assert {value for value, _ in drawn} == {4, 7}
    assert all(pixels[0, 0] == pytest.approx({4: 0.1, 7: 0.2}[value]) for value, pixels in drawn)


def test_questions_of_a_split_show_digits_of_its_pool():
    """A pool of sevens alone: whatever the family, every digit read is a seven."""
    pool = split_digit_pools(SHARES)["test"]
    sevens = DigitPool(pool.images[pool.labels == 7], pool.labels[pool.labels == 7])
    for family, make in FAMILIES.items():
        if family == "text_only":  # shows none
            continue
        question = make("q", sevens, np.random.default_rng(1))
        read = [step for step in question.steps if step.split(":")[0].endswith(("left", "right", "picture"))]
        assert read
        assert all(step.endswith(": 7.") for step in read)


def test_pictures():
    digit = np.zeros((8, 8), np.float32)
    digit[2:6, 2:6] = 1.0
    generator = np.random.default_rng(0)
    picture = draw_picture([digit, "-", None, digit], generator, noise=0.0, max_rotation=0.0)
    assert picture.size == (32, 32)
    assert picture.mode == "RGB"
    pixels = np.asarray(picture)[..., 0].astype(int)
    assert (np.asarray(picture) == pixels[..., None]).all()
    top_left, top_right = pixels[:16, :16], pixels[:16, 16:]
    assert top_left[7:9, 7:9].min() > 200
    assert top_left[:2].max() == 0
    # The minus sign: ink in the middle rows, none above and below.
    assert top_right[6:11].max() > 200
    assert top_right[:5].max() == top_right[12:].max() == 0
    assert pixels[16:, :16].max() == 0
    assert pixels[23:25, 23:25].min() > 200


def test_pictures_differ_by_their_generator_alone():
    digit = load_digits().images[0].astype(np.float32) / 16
    cells = [digit, "+", None, digit]
    first, second, other = (np.asarray(draw_picture(cells, np.random.default_rng(seed))) for seed in (0, 0, 1))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)
