"""`medinfer doctor`: what it says of environments that are whole, torn, or in each other's way."""

from __future__ import annotations

import importlib.metadata
import json
import resource
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import onnx
import pytest

from medinfer import diagnosis, probes

RUNTIME = Path(diagnosis.__file__).parents[1]
REAL = Path(sysconfig.get_path("purelib"))
# The standard library, the runtime and one folder of packages: nothing else is there to be imported.
DOCTOR = """
import sys
sys.path[:] = [path for path in sys.path if path] + sys.argv[1:3]
sys.argv[:] = ["medinfer", "doctor", *sys.argv[3:]]
from medinfer.cli import main
main()
"""
WORKING = """
__version__, cuda_version = "1.31.1", ""
class SessionOptions:
    def add_session_config_entry(self, *words): pass
class InferenceSession:
    def __init__(self, *words, **more): pass
    def get_providers(self): return ["CPUExecutionProvider"]
    def run(self, outputs, feed): return [next(iter(feed.values())).clip(0)]
def get_available_providers(): return ["AzureExecutionProvider", "CPUExecutionProvider"]
"""
CRASHING = WORKING.replace("**more): pass", "**more): import os; os.kill(os.getpid(), 11)")
HANGING = "import time\nwhile True: time.sleep(1)"
DECODERS = ("simplejpeg", "pil")


class Site:
    """A folder of packages: the real ones linked, others made up."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def link(self, *packages: str) -> None:
        """Put real packages there with all that lies beside them: their libraries and metadata."""
        for package in packages:
            for path in REAL.iterdir():
                if path.name.lower().replace("_", "-").startswith(package):
                    self.folder.joinpath(path.name).symlink_to(path)

    def write(self, module: str, text: str) -> None:
        self.folder.joinpath(module).mkdir(parents=True, exist_ok=True)
        self.folder.joinpath(module, "__init__.py").write_text(text)

    def list(self, package: str, version: str, module: str) -> None:
        """Let the metadata say that a package is installed which holds a module."""
        folder = self.folder / f"{package.replace('-', '_')}-{version}.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
        (folder / "RECORD").write_text(f"{module}/__init__.py,,\n")

    def doctor(self, *words: str, **options) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-S", "-c", DOCTOR, RUNTIME, self.folder, *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)

    def findings(self) -> tuple[int, dict[str, list[dict[str, str]]]]:
        """Return the exit code, and what was found under each topic."""
        done = self.doctor("--json")
        found: dict[str, list[dict[str, str]]] = {}
        for each in json.loads(done.stdout)["findings"]:
            found.setdefault(each["topic"], []).append(each)
        return done.returncode, found


@pytest.fixture
def site(tmp_path):
    folder = tmp_path / "site"
    folder.mkdir()
    made = Site(folder)
    made.link("click", "medonnx")
    return made


@pytest.fixture
def whole(site):
    """An environment in which everything is there that the runtime needs."""
    site.link("numpy", "cv2", "opencv", *DECODERS)
    site.write("onnxruntime", WORKING)
    site.list("onnxruntime", "1.31.1", "onnxruntime")
    return site


def test_a_whole_environment_is_told_line_by_line_and_ends_well(whole):
    done = whole.doctor()
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line for line in done.stdout.splitlines() if not line.startswith(" ")]
    said = {line.split()[1]: line.split()[0] for line in lines[:-1]}
    assert {said[topic] for topic in ("medonnx", "numpy", "opencv", "onnxruntime", "cpu", "cores")} == {"ok"}
    assert "decodes png, jpeg, tiff, webp, bmp" in done.stdout
    assert said["tiff"] == "note"
    assert lines[-1] == "Models run here on: cpu."
    assert done.stderr == ""


def test_json_says_the_same_as_the_text(whole):
    code, found = whole.findings()
    assert code == 0
    assert [each["status"] for each in found["cpu"]] == ["ok"]
    assert found["parquet"][0]["status"] == "note"
    assert found["parquet"][0]["fix"].endswith('install "medonnx[parquet]"')


def test_two_onnxruntimes_in_one_folder_are_wrong_and_the_line_removes_both_before_it_installs_one(whole):
    whole.list("onnxruntime-gpu", "1.31.1", "onnxruntime")
    done = whole.doctor()
    assert done.returncode == 5
    pip = f"{sys.executable} -m pip"
    fix = f'{pip} uninstall -y onnxruntime onnxruntime-gpu && {pip} install "medonnx[cpu]"'
    assert f"fix: {fix}\n" in done.stdout
    assert f"Error: wrong here: onnxruntime. Run: {fix}\n" == done.stderr


def test_two_in_different_folders_and_packages_that_only_sound_alike_are_no_conflict(whole, tmp_path, monkeypatch):
    other = Site(tmp_path / "other")
    other.list("onnxruntime-gpu", "1.31.1", "onnxruntime")
    whole.list("onnxruntime-extensions", "0.15.0", "onnxruntime_extensions")
    monkeypatch.setattr(sys, "path", [str(whole.folder), str(other.folder)])
    assert diagnosis._packages("onnxruntime") == {"onnxruntime": "1.31.1"}
    monkeypatch.setattr(sys, "path", [str(other.folder), str(whole.folder)])
    assert diagnosis._packages("onnxruntime") == {"onnxruntime-gpu": "1.31.1"}


def test_no_onnxruntime_is_told_with_the_line_that_installs_one(site):
    site.link("numpy", "cv2", "opencv", *DECODERS)
    code, found = site.findings()
    assert code == 5
    (only,) = found["onnxruntime"]
    assert (only["status"], only["text"]) == ("wrong", "not installed")
    assert only["fix"] == f'{sys.executable} -m pip install "medonnx[cpu]"'
    assert "cpu" not in found


def test_what_an_uninstallation_left_behind_is_not_taken_for_an_onnxruntime(site):
    site.link("numpy", "cv2", "opencv", *DECODERS)
    (site.folder / "onnxruntime/capi").mkdir(parents=True)
    site.list("onnxruntime-gpu", "1.31.1", "onnxruntime")
    code, found = site.findings()
    assert code == 5
    assert "leftovers" in found["onnxruntime"][0]["text"]
    assert "uninstall -y onnxruntime-gpu && " in found["onnxruntime"][0]["fix"]


def test_files_of_another_version_than_is_listed_are_wrong(whole):
    whole.write("onnxruntime", WORKING.replace("1.31.1", "1.30.0"))
    code, found = whole.findings()
    assert code == 5
    assert "its files are of 1.30.0" in found["onnxruntime"][0]["text"]


def test_where_nothing_can_be_imported_it_says_which_and_blames_no_other(site):
    site.write("numpy", "raise ImportError('libopenblas.so: cannot open shared object file')")
    site.list("numpy", "2.4.6", "numpy")
    site.link("cv2", "opencv", "onnxruntime")
    done = site.doctor()
    assert done.returncode == 5
    assert "Traceback" not in done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert any(line.startswith("wrong  numpy") and "libopenblas.so" in line for line in lines)
    assert any(line.startswith("wrong  opencv") for line in lines)
    assert any(line.startswith("wrong  onnxruntime") for line in lines)
    (fix,) = [line.strip() for line in lines if "fix: " in line and "medonnx[" not in line]
    assert "uninstall -y numpy && " in fix
    assert fix.endswith('install "numpy>=1.26"')
    assert lines[-1] == "No model runs here."


def test_a_provider_that_crashes_the_process_is_told_and_the_rest_goes_on(whole):
    whole.write("onnxruntime", CRASHING)
    code, found = whole.findings()
    assert code == 5
    assert (found["cpu"][0]["status"], found["cpu"][0]["text"]) == ("wrong", "crashes: Segmentation fault")
    assert found["memory"]


def test_a_limit_on_memory_is_told(whole):
    done = whole.doctor(preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (32 * 10**9, 32 * 10**9)))
    assert "32.0 GB limit" in done.stdout


def test_a_probe_that_hangs_is_given_up(site, monkeypatch):
    site.write("onnxruntime", HANGING)
    monkeypatch.setattr(sys, "path", [str(site.folder), *sys.path])
    assert probes.ask("onnxruntime", seconds=2) == {"error": "no answer within 2 s"}


def test_what_packages_print_does_not_disturb_the_answer(site, monkeypatch):
    site.write("onnxruntime", "import atexit\nprint('hello', end='')\n" + WORKING)
    monkeypatch.setattr(sys, "path", [str(site.folder), *sys.path])
    assert probes.ask("onnxruntime")["providers"] == ["cpu"]


def test_two_opencvs_are_wrong_only_where_their_versions_differ(site, monkeypatch):
    monkeypatch.setattr(diagnosis, "ask", lambda *words: {"version": "5.0.0", "read": ["png"], "failed": {}})
    monkeypatch.setattr(sys, "path", [str(site.folder)])
    site.list("opencv-python-headless", "5.0.0.93", "cv2")
    site.list("opencv-python", "5.0.0.93", "cv2")
    assert [each.status for each in diagnosis._opencv()] == ["note", "ok", "ok"]
    site.list("opencv-contrib-python", "4.14.0.94", "cv2")
    first = next(diagnosis._opencv())
    assert first.status == "wrong"
    assert "uninstall -y opencv-contrib-python opencv-python opencv-python-headless && " in first.fix


def driver(cuda="13.0", code=0, gpus=("NVIDIA H200",)):
    return {"found": True, "cuda": cuda, "code": code, "gpus": list(gpus)}


GPU_BUILD = {"version": "1.31.1", "file": "/x", "cuda": "13.0", "providers": ["cpu", "cuda", "tensorrt"]}
CPU_BUILD = {"version": "1.31.1", "file": "/x", "cuda": "", "providers": ["cpu"]}


@pytest.fixture
def diagnosed(monkeypatch):
    """Diagnose a machine whose driver, build of onnxruntime and CUDA say this."""

    def diagnose(driver, module, cuda=None):
        answers = {"driver": driver, "onnxruntime": module, "provider cpu": {}, "provider tensorrt": {"error": "no"}}
        answers["provider cuda"] = {"error": f"cuda: {cuda}"} if cuda else {}
        answers["cuda libraries"] = {"missing": ["libcurand.so.10"], "CUDA": "13.2"}
        monkeypatch.setattr(diagnosis, "ask", lambda *words: answers.get(" ".join(words), {"error": "not asked"}))
        monkeypatch.setattr(diagnosis, "_packages", lambda module: {"onnxruntime-gpu": "1.31.1"})
        found = diagnosis.diagnose()
        return {each.topic: each for each in found.findings}, found.runs_on

    return diagnose


def test_cuda_that_works_is_told_with_its_gpu(diagnosed):
    found, runs_on = diagnosed(driver(), GPU_BUILD)
    assert runs_on == ("cpu", "cuda")
    assert "NVIDIA H200" in found["nvidia"].text
    assert found["cuda"].status == "ok"
    assert found["tensorrt"].status == "note"


@pytest.mark.parametrize(
    ("shown", "words", "fix"),
    [
        ({"found": False}, "install its driver", 'uninstall -y onnxruntime-gpu && {pip} install "medonnx[cpu]"'),
        (driver(code=100, gpus=()), "CUDA error 100", ""),
        ({"error": "crashes: Segmentation fault"}, "The driver first", ""),
        (driver("12.8"), "update the driver", 'install "medonnx[gpu]" "onnxruntime-gpu<1.27"'),
        (driver("11.4"), "update the driver", ""),
        (driver("13.1"), "libraries are missing", 'install "medonnx[gpu]"'),
    ],
    ids=["no driver", "no GPU", "driver crashes", "driver of CUDA 12", "driver of CUDA 11", "no libraries"],
)
def test_cuda_that_does_not_work_is_a_note_with_the_cure_for_its_cause(shown, words, fix, diagnosed):
    found, runs_on = diagnosed(shown, GPU_BUILD, cuda="libcublasLt.so.13: cannot open")
    assert runs_on == ("cpu",)
    assert found["cuda"].status == "note"
    assert found["cuda"].text == "libcublasLt.so.13: cannot open"
    assert words in found["cuda"].advice
    assert found["cuda"].fix.endswith(fix.format(pip=f"{sys.executable} -m pip"))
    assert bool(found["cuda"].fix) == bool(fix)


def test_a_gpu_that_the_build_cannot_use_is_told_with_the_build_that_can(diagnosed):
    found, _ = diagnosed(driver(), CPU_BUILD)
    assert found["nvidia"].status == "note"
    assert found["nvidia"].fix.endswith('install "medonnx[gpu]"')


def test_the_driver_is_asked_for_its_cuda_and_its_gpus(monkeypatch):
    class Driver:
        def cuDriverGetVersion(self, version):
            version._obj.value = 12080

        def cuInit(self, flags):
            return 0

        def cuDeviceGetCount(self, count):
            count._obj.value = 2
            return 0

        def cuDeviceGet(self, device, index):
            device._obj.value = index

        def cuDeviceGetName(self, name, size, device):
            name.value = f"GPU {device.value}".encode()

    monkeypatch.setattr(probes.ctypes, "CDLL", lambda name: Driver())
    assert probes.PROBES["driver"]() == {"found": True, "cuda": "12.8", "code": 0, "gpus": ["GPU 0", "GPU 1"]}


def test_the_model_of_the_probe_is_valid_and_has_one_node():
    model = onnx.load_from_string(probes.ONE_NODE)
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node] == ["Relu"]


def test_a_provider_that_leaves_the_node_to_another_does_not_pass(monkeypatch):
    monkeypatch.setattr(probes, "nodes_taken", lambda session: {"openvino": 1})
    with pytest.raises(probes.ModelError, match="leaves the node to openvino"):
        probes.PROBES["provider"]("cpu")


def test_a_decoder_that_mixes_up_colours_or_takes_half_a_picture_is_found_out(monkeypatch):
    import cv2
    import simplejpeg

    whole = cv2.imdecode

    def swapped(data, flags):
        image = whole(data, flags)
        return None if image is None else image[..., ::-1]

    monkeypatch.setattr(cv2, "imdecode", swapped)
    assert set(probes.PROBES["images"]()["failed"]) == {"png", "webp"}
    monkeypatch.setattr(cv2, "imdecode", whole)
    strictly = simplejpeg.decode_jpeg

    def lenient(*words, **options):
        try:
            return strictly(*words, **options)
        except ValueError:
            return np.full((8, 16, 3), probes.COLOR, np.uint8)

    monkeypatch.setattr(simplejpeg, "decode_jpeg", lenient)
    assert probes.PROBES["images"]()["failed"] == {"half a jpeg": "is taken for a whole one"}


def test_dicom_files_are_really_decoded_and_what_has_no_decoder_here_is_told():
    found = probes.PROBES["dicom"]()
    assert {"uncompressed", "RLE"} <= set(found["read"])
    assert set(found["failed"].values()) <= {"missing_extra"}


@pytest.mark.parametrize(("at", "line"), [("bin", "pip install"), ("elsewhere", "{python} -m pip install")])
def test_the_line_calls_the_pip_of_this_environment(at, line, tmp_path, monkeypatch):
    """The pip that the shell would find may belong to another."""
    python = tmp_path / "bin/python"
    for folder in ("bin", "elsewhere"):
        (tmp_path / folder).mkdir()
        shutil.copy("/bin/true", tmp_path / folder / "pip")
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setenv("PATH", str(tmp_path / at))
    assert diagnosis._line("x") == f'{line.format(python=python)} "x"'


def test_an_environment_of_uv_which_has_no_pip_is_served_by_uv(monkeypatch):
    monkeypatch.setattr(diagnosis, "find_spec", lambda name: None)
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/uv" if name == "uv" else None)
    python = sys.executable
    expected = f'uv pip uninstall --python {python} a && uv pip install --python {python} "b"'
    assert diagnosis._line("b", remove=["a"]) == expected


def test_torn_metadata_do_not_stop_it(whole):
    folder = whole.folder / "onnxruntime_directml-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_bytes(b"\xff\xfe\0\0")
    (whole.folder / "opencv_python-4.0.dist-info").write_text("a file where a folder should be")
    code, found = whole.findings()
    assert code == 0, found


def test_looking_imports_nothing_heavy():
    code = """
import sys
from medinfer import diagnosis
diagnosis.diagnose()
assert not {"numpy", "cv2", "onnxruntime", "pydicom", "pyarrow"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_requirements_are_those_of_the_installed_package():
    assert importlib.metadata.version("medonnx")
    assert diagnosis._requirement("numpy").startswith("numpy>=")
    assert diagnosis._requirement("opencv-python-headless").startswith("opencv-python-headless")
    assert diagnosis._requirement("pyarrow").startswith("pyarrow>=")
