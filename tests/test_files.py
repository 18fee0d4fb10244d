import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lumigraph import files
from lumigraph.errors import LumigraphError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_error_says_what_where_and_what_to_do():
    error = LumigraphError("it broke.", where=Path("a/b"), todo="Mend it")
    assert str(error) == "it broke (in a/b). Mend it."
    assert (error.what, error.where, error.todo) == ("it broke.", "a/b", "Mend it")


def test_importing_files_imports_neither_torch_nor_numpy():
    code = "import lumigraph.files, sys; assert not {'torch', 'numpy', 'PIL'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


class TestJson:
    def test_round_trip(self, tmp_path):
        data = {"a": [1, 2.5, None, True], "b": {"é": "ü"}}
        files.write_json(tmp_path / "new" / "x.json", data)
        assert files.read_json(tmp_path / "new" / "x.json") == data
        assert names(tmp_path / "new") == ["x.json"]

    def test_stores_paths_and_arrays(self, tmp_path):
        files.write_json(tmp_path / "x.json", {"p": Path("a/b"), "n": np.float32(0.5), "t": torch.arange(2)})
        assert files.read_json(tmp_path / "x.json") == {"p": "a/b", "n": 0.5, "t": [0, 1]}

    def test_refuses_to_store_nan(self, tmp_path):
        with pytest.raises(LumigraphError, match="cannot be stored as JSON"):
            files.write_json(tmp_path / "x.json", float("nan"))
        assert not names(tmp_path)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"{", r"not valid JSON: it is cut short or mistyped at line 1, column 2 \("),
            (b'{"a": 1,\n "b": }', r"not valid JSON: it is cut short or mistyped at line 2, column 7 \("),
            (b"", r"not valid JSON: it is empty \("),
            (b" \n", r"not valid JSON: it is empty \("),
            (b"\xff\xfe\x00", "not UTF-8"),
            (b"[NaN]", "the constant NaN is not JSON"),
            (b"[-Infinity]", "the constant -Infinity is not JSON"),
            (b"[" * 200_000, "nested too deeply"),
            (b"9" * 10_000, r"not valid JSON: a number has too many digits \("),
        ],
    )
    def test_bad_content(self, tmp_path, content, message):
        path = tmp_path / "x.json"
        path.write_bytes(content)
        with pytest.raises(LumigraphError, match=message) as caught:
            files.read_json(path)
        assert str(path) in str(caught.value)
        assert caught.value.todo

    def test_limit(self, tmp_path):
        (tmp_path / "x.json").write_text("[" + "1," * 1000 + "1]")
        with pytest.raises(LumigraphError, match="larger than"):
            files.read_json(tmp_path / "x.json", limit_bytes=100)

    def test_missing(self, tmp_path):
        with pytest.raises(LumigraphError, match="no such file"):
            files.read_json(tmp_path / "x.json")


class TestNewFile:
    def test_an_error_leaves_the_old_content(self, tmp_path):
        path = tmp_path / "x"
        path.write_text("old")
        with pytest.raises(RuntimeError), files.new_file(path) as temporary:  # noqa: PT012
            temporary.write_text("half")
            raise RuntimeError
        assert path.read_text() == "old"
        assert names(tmp_path) == ["x"]

    def test_full_disk_is_one_message(self, tmp_path, monkeypatch):
        def full(_descriptor):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(LumigraphError, match="the disk is full") as caught:
            files.write_bytes_atomic(tmp_path / "x", b"data")
        assert caught.value.where == str(tmp_path / "x")
        assert not names(tmp_path)

    def test_a_file_in_the_place_of_a_folder(self, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(LumigraphError):
            files.write_bytes_atomic(tmp_path / "file" / "x", b"")

    def test_rights_follow_the_umask(self, tmp_path):
        old = os.umask(0o027)
        try:
            files.save_tensors(tmp_path / "x", {"a": torch.zeros(1)})
        finally:
            os.umask(old)
        assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o640


class TestNewFolder:
    def test_appears_whole(self, tmp_path):
        with files.new_folder(tmp_path / "a" / "b") as folder:
            files.write_json(folder / "sub" / "x.json", 1)
            assert not (tmp_path / "a" / "b").exists()
        assert files.read_json(tmp_path / "a" / "b" / "sub" / "x.json") == 1
        assert names(tmp_path / "a") == ["b"]

    @pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, LumigraphError])
    def test_an_error_leaves_nothing(self, tmp_path, error):
        with pytest.raises(error), files.new_folder(tmp_path / "b") as folder:  # noqa: PT012
            (folder / "x").touch()
            raise error("stop")
        assert not names(tmp_path)

    def test_refuses_what_exists(self, tmp_path):
        (tmp_path / "b").mkdir()
        (tmp_path / "b" / "old").touch()
        with pytest.raises(LumigraphError, match="exists already"), files.new_folder(tmp_path / "b"):
            pytest.fail("the body must not run")
        assert names(tmp_path / "b") == ["old"]

    def test_overwrites_when_asked(self, tmp_path):
        (tmp_path / "b").mkdir()
        (tmp_path / "b" / "old").touch()
        with files.new_folder(tmp_path / "b", overwrite=True) as folder:
            (folder / "new").touch()
        assert names(tmp_path / "b") == ["new"]
        assert names(tmp_path) == ["b"]

    def test_takes_over_an_empty_folder(self, tmp_path):
        (tmp_path / "b").mkdir()
        with files.new_folder(tmp_path / "b") as folder:
            (folder / "new").touch()
        assert names(tmp_path / "b") == ["new"]

    def test_never_overwrites_the_current_folder(self, tmp_path, monkeypatch):
        (tmp_path / "b" / "c").mkdir(parents=True)
        monkeypatch.chdir(tmp_path / "b" / "c")
        with (
            pytest.raises(LumigraphError, match="never overwritten"),
            files.new_folder(tmp_path / "b", overwrite=True),
        ):
            pytest.fail("the body must not run")

    def test_removes_what_a_killed_process_left(self, tmp_path):
        code = (
            "import os, signal, sys; from lumigraph.files import new_folder\n"
            "with new_folder(sys.argv[1]) as folder:\n"
            "    (folder / 'x').touch(); os.kill(os.getpid(), signal.SIGKILL)"
        )
        subprocess.run([sys.executable, "-c", code, str(tmp_path / "b")], timeout=60, check=False)
        assert len(names(tmp_path)) == 1
        assert not (tmp_path / "b").exists()
        with files.new_folder(tmp_path / "b") as folder:
            (folder / "x").touch()
        assert names(tmp_path) == ["b"]


class TestTensors:
    def test_round_trip(self, tmp_path):
        tensors = {"a": torch.randn(3, 4), "b": torch.arange(5).t(), "c": torch.zeros(2, 3).t()}
        files.save_tensors(tmp_path / "x.safetensors", tensors, {"schema": "1"})
        loaded, metadata = files.load_tensors(tmp_path / "x.safetensors")
        assert metadata == {"schema": "1"}
        assert all(torch.equal(tensors[name], loaded[name]) for name in tensors)

    @pytest.mark.parametrize("cut", [0, 4, 20, -1])
    def test_truncated(self, tmp_path, cut):
        path = tmp_path / "x.safetensors"
        files.save_tensors(path, {"a": torch.randn(100)})
        path.write_bytes(path.read_bytes()[:cut])
        with pytest.raises(
            LumigraphError, match=r"the weights file is damaged or cut short \(in .*\)\. Restore"
        ):
            files.load_tensors(path)

    def test_not_enough_disk(self, tmp_path):
        with pytest.raises(LumigraphError, match="MB are needed"):
            files.require_disk(tmp_path / "not" / "there", 10**18)
        files.require_disk(tmp_path, 1)


class TestInside:
    @pytest.mark.parametrize("name", ["a.png", "./a/b.png", "a\\b.png", "-rf", "ü/日.png", "a..b/..c"])
    def test_accepts(self, tmp_path, name):
        assert files.inside(tmp_path, name).is_relative_to(tmp_path)

    @pytest.mark.parametrize(
        "name",
        [
            *("/etc/passwd", "../a", "a/../../b", "..\\a", "C:\\a", "c:a", "\\\\host\\a", "a\0b"),
            *("", " ", "a\nb", "\ud800", "a" * 300, "a/" * 2000),
        ],
    )
    def test_refuses(self, tmp_path, name):
        with pytest.raises(LumigraphError, match="file name"):
            files.inside(tmp_path, name)

    def test_links(self, tmp_path):
        (tmp_path / "scene").mkdir()
        (tmp_path / "scene" / "out").symlink_to(tmp_path)
        (tmp_path / "scene" / "in").symlink_to(tmp_path / "scene")
        (tmp_path / "scene" / "loop").symlink_to(tmp_path / "scene" / "loop")
        with pytest.raises(LumigraphError, match="symbolic link"):
            files.inside(tmp_path / "scene", "out/x.png")
        with pytest.raises(LumigraphError, match="symbolic link"):
            files.inside(tmp_path / "scene", "loop/x.png")
        assert files.inside(tmp_path / "scene", "in/x.png")

    @given(st.text(max_size=40))
    def test_never_leaves(self, name):
        base = Path("/nowhere/scene")
        try:
            path = files.inside(base, name)
        except LumigraphError:
            return
        assert os.path.normpath(path).startswith("/nowhere/scene")


def test_sha256(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    assert files.sha256(tmp_path / "x").startswith("ba7816bf8f01cfea")
