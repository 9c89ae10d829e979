"""The file of a run's settings: whole, or an error that names it."""

from types import SimpleNamespace

import pytest
import yaml

from lightning_modules.configuration.parser import ConfigurationParser
from lightning_modules.configuration.saved_configuration import SavedConfiguration


def saved(folder, is_first=True):
    parser = ConfigurationParser()
    parser.add_argument("--steps", type=int | None)
    callback = SavedConfiguration(parser, parser.parse_args([]), overwrite=True)
    callback.setup(SimpleNamespace(log_dir=str(folder), is_global_zero=is_first), None, "fit")
    return callback


def test_settings_are_written_once_by_the_first_rank(tmp_path):
    saved(tmp_path / "others", is_first=False)
    assert not (tmp_path / "others").exists()
    callback = saved(tmp_path / "run")
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text()) == {"steps": None}
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["config.yaml"]
    (tmp_path / "run" / "config.yaml").unlink()
    callback.setup(SimpleNamespace(log_dir=str(tmp_path / "run"), is_global_zero=True), None, "validate")
    assert not (tmp_path / "run" / "config.yaml").exists()


@pytest.mark.parametrize("in_the_way", ["a file for the folder", "a folder for the file"])
def test_a_place_that_cannot_be_written(in_the_way, tmp_path):
    """Of the parser's own method, those are TypeErrors."""
    if in_the_way == "a file for the folder":
        (tmp_path / "run").touch()
    else:
        (tmp_path / "run" / "config.yaml").mkdir(parents=True)
    with pytest.raises(OSError, match=r"run/config\.yaml'"):
        saved(tmp_path / "run")


def test_a_folder_without_permission(tmp_path, monkeypatch):
    def refused(*arguments, **options):
        raise PermissionError(13, "Permission denied", f"{options['dir']}/{options['prefix']}x")

    monkeypatch.setattr("tempfile.mkstemp", refused)
    with pytest.raises(PermissionError, match=r"run/config\.yaml'"):
        saved(tmp_path / "run")
