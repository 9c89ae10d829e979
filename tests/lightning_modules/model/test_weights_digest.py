import numpy as np
from safetensors.numpy import save_file

from lightning_modules.model.weights_digest import weights_digest


def test_other_weights_in_the_same_folder(tmp_path):
    """Whatever part of them was trained; names, dates and other files do not count."""
    assert weights_digest(tmp_path) is None
    assert weights_digest("some/name-on-a-hub") is None
    weights = {f"layer{n}": np.random.default_rng(n).normal(size=(100, 400)).astype(np.float32) for n in range(4)}
    digests = []
    for trained in (None, *weights):
        changed = {name: value + (name == trained) for name, value in weights.items()}
        save_file(changed, tmp_path / "model.safetensors")
        digests.append(weights_digest(tmp_path))
    assert len(set(digests)) == 5
    moved = tmp_path / "moved"
    moved.mkdir()
    (moved / "config.json").touch()
    save_file(weights, moved / "model.safetensors")
    assert weights_digest(moved) == digests[0]
    save_file({"adapter": np.zeros(3)}, moved / "adapter_model.safetensors")
    assert weights_digest(moved) != digests[0]
