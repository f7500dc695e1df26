"""What is installed, what works, and the line that mends what does not: `medinfer doctor`.

Nothing that could fail is imported here: packages are looked up in their metadata, and tried in child processes.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import sys
from collections.abc import Iterable, Iterator
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, NamedTuple

from medinfer import __version__
from medinfer.errors import ProviderError
from medinfer.probes import Facts, ask

Status = Literal["ok", "note", "wrong"]

# The module -> how the names of the packages begin that may bring it.
BRINGS = {"onnxruntime": "onnxruntime", "cv2": "opencv"}
# Decoders beside OpenCV, and the packages that bring them.
DECODERS = {"simplejpeg": "simplejpeg", "PIL": "pillow"}
LAST_FOR_CUDA_12 = "onnxruntime-gpu<1.27"
LITTLE_MEMORY = 0.5  # GB: twice what the largest network of the benchmarks takes
# Vectors, products of int8, products of bf16: as /proc/cpuinfo names them, or OpenCV where there is none.
FEATURES = {
    "AVX2": ("avx2",),
    "AVX512": ("avx512f",),
    "NEON": ("asimd", "neon"),
    "VNNI": ("avx512_vnni", "avx512vnni", "avx_vnni", "asimddp", "neon_dotprod"),
    "AMX": ("amx_int8", "amx_bf16"),
    "bf16": ("avx512_bf16", "amx_bf16", "bf16", "neon_bf16"),
}


class Finding(NamedTuple):
    """One line of the report; `fix` is a command line that mends it, to be run as it stands."""

    topic: str
    status: Status
    text: str
    advice: str = ""
    fix: str = ""


class Diagnosis(NamedTuple):
    """Everything found, and the providers on which a model really ran."""

    findings: tuple[Finding, ...]
    runs_on: tuple[str, ...]

    @property
    def wrong(self) -> list[Finding]:
        """What must be mended."""
        return [finding for finding in self.findings if finding.status == "wrong"]

    def as_text(self) -> str:
        """Return aligned lines; advice and fix stand below what they belong to."""
        lines, told = [], set()
        for topic, status, text, advice, fix in self.findings:
            below = [advice] * bool(advice) + [f"fix: {'as above' if fix in told else fix}"] * bool(fix)
            lines += [f"{status:5}  {topic:11}  {text}", *(f"{'':20}{line}" for line in below)]
            told.add(fix)
        runs = f"Models run here on: {', '.join(self.runs_on)}." if self.runs_on else "No model runs here."
        return "\n".join([*lines, runs])

    def as_json(self) -> str:
        """Return the same as a JSON object in one line."""
        findings = [finding._asdict() for finding in self.findings]
        return json.dumps({"passes": not self.wrong, "runs_on": self.runs_on, "findings": findings})

    def require(self) -> None:
        """Raise ProviderError if no model can run, or if packages overwrite each other's files."""
        if self.wrong:
            topics = ", ".join(dict.fromkeys(finding.topic for finding in self.wrong))
            raise ProviderError(f"wrong here: {topics}", hint=f"Run: {self.wrong[0].fix}")


def diagnose() -> Diagnosis:
    """Look at this environment and this machine; takes a few seconds, for it starts processes."""
    driver, module = ask("driver"), ask("onnxruntime")
    ran = {name: ask("provider", name) for name in module.get("providers", ())}
    numpy = _numpy()
    packages = [*_opencv(), *_onnxruntime(module, driver)]
    if numpy.status == "wrong":  # what cannot be imported without it need not be installed again
        blocked = {each: each._replace(advice="numpy first.", fix="") for each in packages if "cannot" in each.text}
        packages = [blocked.get(each, each) for each in packages]
    providers = [_provider(name, facts, module, driver) for name, facts in ran.items()]
    machine = [_processor(), _cores(), _memory()]
    findings = [
        _medonnx(),
        numpy,
        *packages,
        _nvidia(module, driver),
        *providers,
        _tiff(),
        _dicom(),
        _parquet(),
        *machine,
    ]
    return Diagnosis(tuple(findings), tuple(name for name, facts in ran.items() if "error" not in facts))


def _medonnx() -> Finding:
    system = f"{platform.system()} {platform.machine()}"
    return Finding("medonnx", "ok", f"{__version__}, Python {platform.python_version()}, {system}: {sys.executable}")


def _numpy() -> Finding:
    facts = ask("numpy")
    if "error" in facts:
        return Finding("numpy", "wrong", f"cannot be imported: {facts['error']}", fix=_renew("numpy"))
    return Finding("numpy", "ok", str(facts["version"]))


def _opencv() -> Iterator[Finding]:
    packages = _packages("cv2")
    fix = _line(_requirement("opencv-python-headless"), remove=packages)
    if len(packages) > 1:
        # Of one version they are one OpenCV, but for its windows; of two, Python files of one call the other's library.
        alike = len(set(packages.values())) == 1
        yield Finding("opencv", "note" if alike else "wrong", f"{_named(packages)} overwrite each other", fix=fix)
    facts = ask("images")
    if "error" in facts:
        yield Finding("opencv", "wrong", f"cannot read images: {facts['error']}", fix=fix)
        return
    yield Finding("opencv", "ok", str(facts["version"]))
    if facts["failed"]:
        missing = [package for module, package in DECODERS.items() if find_spec(module) is None]
        fix = _line(*map(_requirement, missing)) if missing else fix
        yield Finding("images", "wrong", f"fails on {_reasons(facts['failed'])}", fix=fix)
    else:
        yield Finding("images", "ok", f"decodes {', '.join(facts['read'])}")


def _tiff() -> Finding:
    rare = "JPEG 2000, JPEG XL, JPEG XR, zstd, LZMA, WebP, PNG and CCITT in TIFF"
    facts = ask("tiff")
    if "error" not in facts:
        return Finding("tiff", "ok", f"imagecodecs {facts['version']} decodes {rare}")
    if find_spec("imagecodecs") is None:
        return Finding("tiff", "note", f"without imagecodecs, not {rare}", fix=_line("medonnx[tiff]"))
    return Finding("tiff", "note", f"imagecodecs cannot be imported: {facts['error']}", fix=_renew("imagecodecs"))


def _onnxruntime(module: Facts, driver: Facts) -> Iterator[Finding]:
    packages = _packages("onnxruntime")
    fix = _swap(_best_extra(driver))
    if len(packages) > 1:
        why = f"{_named(packages)} overwrite each other: what runs is chance"
        yield Finding("onnxruntime", "wrong", why, "Remove all of them, then install one:", fix)
    if "error" in module:
        missing = not packages and find_spec("onnxruntime") is None
        why = "not installed" if missing else f"cannot be imported: {module['error']}"
        yield Finding("onnxruntime", "wrong", why, fix=fix)
        return
    version = str(module["version"])
    built = f", built for CUDA {module['cuda']}" if module["cuda"] else ""
    name = _named(packages) if len(packages) == 1 else version
    text = f"{name} offers {', '.join(module['providers'])}{built}: {module['file']}"
    if packages and version not in packages.values():
        yield Finding("onnxruntime", "wrong", f"{text}; but its files are of {version}", fix=fix)
    else:
        yield Finding("onnxruntime", "ok", text)


def _nvidia(module: Facts, driver: Facts) -> Finding:
    """Tell of driver, GPUs and libraries; whether they serve is told by the provider that needs them."""
    if "error" in driver:
        return Finding("nvidia", "note", f"asking the driver: {driver['error']}", "Install the driver again.")
    parts = ["no driver"]
    if driver["found"]:
        parts = [f"driver for CUDA {driver['cuda']}", ", ".join(driver["gpus"]) or "no GPU"]
    if module.get("cuda"):
        facts = ask("cuda libraries")
        parts += [f"{key} {facts[key]}" for key in ("CUDA", "cuDNN") if key in facts]
        if driver["found"] and facts.get("missing"):
            parts.append(f"missing: {', '.join(facts['missing'])}")
    elif driver["found"] and driver["gpus"] and "error" not in module:
        return Finding("nvidia", "note", "; ".join(parts), "The onnxruntime for it is another one:", _swap("gpu"))
    return Finding("nvidia", "ok", "; ".join(parts))


def _provider(name: str, facts: Facts, module: Facts, driver: Facts) -> Finding:
    """Tell whether a model of one node ran there."""
    if "error" not in facts:
        return Finding(name, "ok", "ran a model")
    why = str(facts["error"]).removeprefix(f"{name}: ")
    if name == "cpu":
        return Finding(name, "wrong", why, fix=_swap(_best_extra(driver)))
    if name == "cuda":
        return Finding(name, "note", why, *_cuda_cure(module, driver))
    optional = "TensorRT is a package of NVIDIA's, and optional: cuda does without." if name == "tensorrt" else ""
    return Finding(name, "note", why, optional)


def _cuda_cure(module: Facts, driver: Facts) -> tuple[str, str]:
    """Return advice and the line, for an onnxruntime built for CUDA that does not run there."""
    if "error" in driver:
        return "The driver first.", ""
    if not driver["found"]:
        return "With an NVIDIA GPU, install its driver. Without one, the smaller build does the same:", _swap("cpu")
    if driver["code"] or not driver["gpus"]:
        return f"The driver shows no GPU (CUDA error {driver['code']}): was one given to this container or job?", ""
    if float(driver["cuda"]) < int(module["cuda"].split(".")[0]):
        advice = f"Built for CUDA {module['cuda']}, and the driver ends with {driver['cuda']}: update the driver."
        if driver["cuda"].startswith("12."):
            return f"{advice} Or take the last build for CUDA 12:", _swap("gpu", LAST_FOR_CUDA_12)
        return advice, ""
    return "CUDA's libraries are missing or do not fit:", _line("medonnx[gpu]")


def _best_extra(driver: Facts) -> str:
    """Return the onnxruntime that is right here: CUDA's where a driver is, OpenVINO's where somebody chose it."""
    if driver.get("found"):
        return "gpu"
    return "openvino" if "onnxruntime-openvino" in _packages("onnxruntime") else "cpu"


def _dicom() -> Finding:
    facts = ask("dicom")
    if "error" in facts:
        return Finding("dicom", "note", f"not tried: {facts['error']}")
    text = f"decodes {', '.join(facts['read']) or 'none'}"
    if not facts["failed"]:
        return Finding("dicom", "ok", text)
    return Finding("dicom", "note", f"{text}; not {_reasons(facts['failed'])}", fix=_line("medonnx[dicom]"))


def _reasons(failed: dict[str, str]) -> str:
    return ", ".join(f"{name} ({why})" for name, why in failed.items())


def _parquet() -> Finding:
    facts = ask("parquet")
    if "error" not in facts:
        return Finding("parquet", "ok", f"pyarrow {facts['version']}")
    if find_spec("pyarrow") is None:
        return Finding("parquet", "note", "pyarrow is not installed", fix=_line("medonnx[parquet]"))
    return Finding("parquet", "note", f"pyarrow cannot be imported: {facts['error']}", fix=_renew("pyarrow"))


def _processor() -> Finding:
    """Tell the instructions that decide how fast a network runs, and in which precision a smaller one pays."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = f"model name: {platform.processor()}\n{' '.join(ask('images').get('features', ()))}"
    words = set(text.lower().split())
    name = re.search(r"^model name\s*:\s*(.*)", text, re.MULTILINE)
    found = [feature for feature, names in FEATURES.items() if not words.isdisjoint(names)]
    told = f"{name[1] if name else platform.machine()}: {', '.join(found) or 'no vector instructions known'}"
    if platform.machine().lower() in ("x86_64", "amd64") and "AVX2" not in found:
        return Finding("processor", "note", told, "Without AVX2 networks run slowly.")
    return Finding("processor", "ok", told)


def _cores() -> Finding:
    facts, all_of_them = ask("cores"), os.cpu_count()
    if "error" in facts:
        return Finding("cores", "note", f"{all_of_them}; how many of them are ours is not known: {facts['error']}")
    return Finding("cores", "ok", f"{facts['available']} of {all_of_them} for this process")


def _memory() -> Finding:
    """Tell the memory that is free, and the least of the limits that hold for this process."""
    sizes = {"limit": min(_memory_limits(), default=None), "free": _meminfo("MemAvailable")}
    known = {name: size / 1e9 for name, size in sizes.items() if size is not None}
    told = ", ".join(f"{size:.1f} GB {name}" for name, size in known.items()) or "not known on this system"
    if min(known.values(), default=LITTLE_MEMORY) < LITTLE_MEMORY:
        advice = f"With less than {LITTLE_MEMORY:g} GB a run may be ended by the system: raise it, or take --threads 1."
        return Finding("memory", "note", told, advice)
    return Finding("memory", "ok", told)


def _meminfo(name: str) -> int | None:
    """Return a line of /proc/meminfo, in bytes."""
    try:
        found = re.search(rf"^{name}:\s+(\d+) kB", Path("/proc/meminfo").read_text(encoding="ascii"), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None


def _memory_limits() -> Iterator[int]:
    """Yield the limits in bytes of the control group (version 2, then 1) and of the address space (ulimit -v)."""
    for name in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            limit = int(Path(name).read_text(encoding="ascii"))
        except (OSError, ValueError):  # "max" is no limit
            continue
        if limit < 1 << 60:  # version 1 writes a number that no machine has for none
            yield limit
    try:
        import resource
    except ImportError:  # not POSIX
        return
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY:
        yield limit


def _packages(module: str) -> dict[str, str]:
    """Return the installed packages that hold a module, with their versions, in the folder it is imported from.

    Two in different folders are no conflict: one hides the other whole.
    """
    found: dict[Path, dict[str, str]] = {}
    for package in metadata.distributions():
        try:
            name = re.sub(r"[-_.]+", "-", package.metadata["Name"]).lower()
            if name.startswith(BRINGS[module]) and _holds(package, module):
                found.setdefault(Path(str(package.locate_file(module))), {})[name] = package.version
        except Exception:  # noqa: BLE001 - metadata torn by a broken installation: nothing to be had from it
            continue
    return dict(sorted(next(iter(found.values()), {}).items()))


def _holds(package: metadata.Distribution, module: str) -> bool:
    top = package.read_text("top_level.txt")
    return module in top.split() if top else any(file.parts[0] == module for file in package.files or ())


def _named(packages: dict[str, str]) -> str:
    return " and ".join(f"{name} {version}" for name, version in packages.items())


def _requirement(package: str) -> str:
    """Return a package with the versions that medonnx asks for."""
    try:
        lines = [line.split(";")[0].strip() for line in metadata.requires("medonnx") or ()]
    except metadata.PackageNotFoundError:  # run from a checkout
        lines = []
    return next((line for line in lines if re.match(rf"{package}(?![\w.-])", line)), package)


def _renew(package: str) -> str:
    """Return the line that installs a package, after removing what there may be of it."""
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return _line(_requirement(package))
    return _line(_requirement(package), remove=[package])


def _swap(extra: str, *more: str) -> str:
    """Return the line that leaves one onnxruntime, the extra's: they share files, so all others go first."""
    return _line(f"medonnx[{extra}]", *more, remove=_packages("onnxruntime"))


def _line(*requirements: str, remove: Iterable[str] = ()) -> str:
    """Return a command line that removes packages and installs others."""
    removal = [f"{_pip('uninstall -y')} {' '.join(remove)}"] if remove else []
    quoted = (f'"{requirement}"' for requirement in requirements)
    return " && ".join([*removal, f"{_pip('install')} {' '.join(quoted)}"])


def _pip(command: str) -> str:
    """Return a pip command for this very environment: the pip that a shell finds may be another's."""
    python = f'"{sys.executable}"' if " " in sys.executable else sys.executable
    if find_spec("pip") is None and shutil.which("uv"):
        return f"uv pip {command.removesuffix(' -y')} --python {python}"
    ours = Path(shutil.which("pip") or "").parent == Path(sys.executable).parent
    return f"{'pip' if ours else f'{python} -m pip'} {command}"
