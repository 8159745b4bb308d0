#!/usr/bin/env python3
"""Prepares text corpora for training: data/corpora/NAME/{train.txt,val.txt,SOURCE.txt}.

Needs nothing but Python 3.9 or newer. Every corpus of manifest.json comes from a Debian package or from a URL with its
SHA-256; any other text on this machine becomes a corpus with --from.
"""
import argparse
import fnmatch
import gzip
import json
import os
import pathlib
import shutil
import sys
import tempfile
import zipfile

import fetch
import textform
from textform import TextError

HERE = pathlib.Path(__file__).resolve().parent
SPLITS = ("train", "val")


class UsageError(Exception):
    """What the user asked for can't be meant; the message is one line."""


class CorpusError(Exception):
    """The corpus can't be made; the message is one line."""


# ---- Documents of each kind of source ------------------------------------------------------------

def split_every(documents, val):
    """Every val["every"]-th document, from number val["first"] on, is held out whole."""
    splits: dict[str, list[str]] = {"train": [], "val": []}
    for number, document in enumerate(documents, 1):
        held_out = number >= val["first"] and (number - val["first"]) % val["every"] == 0
        splits["val" if held_out else "train"].append(document)
    return splits


def markdown_documents(files, entry):
    for path in sorted(files):
        if not any(fnmatch.fnmatch(path, p) for p in entry["files"]) or \
                any(fnmatch.fnmatch(path, p) for p in entry["skip"]):
            continue
        try:
            data = gzip.decompress(files[path]) if path.endswith(".gz") else files[path]
        except (OSError, EOFError) as e:
            raise TextError(f"{path}: {e}") from None
        document = textform.normal_form(textform.markdown_text(textform.decode(data, path)))
        if document:
            yield document


def make_debian(entry, out, args, work):
    """Writes the splits of a corpus that is in a Debian package; returns what it was made from."""
    package = entry["package"]
    if args.source:
        deb = args.source if args.source.is_file() else fetch.find_package(args.source, package)
        if not deb:
            raise UsageError(f"--from {args.source}: no {package}_*.deb in this folder")
    else:
        deb = fetch.download_package(package, work)
    files = fetch.package_files(deb, entry["folder"])
    if entry["format"] == "sword":
        documents = textform.sword_documents(files, package)
    else:
        documents = markdown_documents(files, entry)
    for split, texts in split_every(documents, entry["val"]).items():
        write_text(out / f"{split}.txt", textform.join_documents(texts))
    return f"Debian package {deb.name}"


def make_join(entry, out, args, manifest):
    """Corpora that are prepared one by one, each split joined."""
    for part in entry["parts"]:
        prepare(part, manifest[part], args, manifest)
    for split in SPLITS:
        texts = [(args.out / part / f"{split}.txt").read_text(encoding="utf-8") for part in entry["parts"]]
        write_text(out / f"{split}.txt", textform.join_documents(texts))
    return ", ".join(entry["parts"])


def write_documents(source, target):
    """A file whose documents are apart by boundary lines, each brought to the normal form, as a stream."""
    first = True
    lines: list[str] = []

    def flush():
        nonlocal first, lines
        document = textform.normal_form("".join(lines))
        if document:
            target.write(document if first else textform.BOUNDARY + document)
            first = False
        lines = []

    for line in source:
        if line.rstrip("\r\n") == textform.BOUNDARY.rstrip("\n"):
            flush()
        else:
            lines.append(line)
    flush()


def cut_bytes(path, entry, out):
    """The first train_bytes of a file, and what follows (val_bytes of it, or all)."""
    with open(path, "rb") as f:
        for split in SPLITS:
            (out / f"{split}.txt").write_bytes(f.read(entry.get(f"{split}_bytes", -1)))


def make_url(entry, out, args, work):
    for file in entry["files"]:
        path = get_file(file, args, work)
        parts = {path: file.get("split", "train")}
        if "members" in file:
            parts = unzip(path, file["members"], work)
        for part, split in parts.items():
            if "train_bytes" in entry:
                cut_bytes(part, entry, out)
            elif entry["format"] == "verbatim":
                shutil.copyfile(part, out / f"{split}.txt")
            else:
                with open(part, encoding="utf-8", newline="") as source, \
                        open(out / f"{split}.txt", "w", encoding="utf-8", newline="") as target:
                    write_documents(source, target)
    return ", ".join(file["urls"][0] for file in entry["files"])


def get_file(file, args, work):
    """A file of the manifest, downloaded or from --from, with the right SHA-256."""
    if not args.source:
        path = work / file["name"]
        fetch.download(file["urls"], file["sha256"], path)
        return path
    path = args.source if args.source.is_file() else args.source / file["name"]
    if not path.is_file():
        raise UsageError(f"--from {args.source}: no {file['name']} in this folder")
    got = fetch.sha256_file(path)
    if got != file["sha256"]:
        raise CorpusError(f"{path}: SHA-256 is {got}, the manifest has {file['sha256']}; it is another file")
    return path


def unzip(path, members, work):
    parts = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for member, split in members.items():
                part = work / f"{split}.raw"
                with archive.open(member) as source, open(part, "wb") as target:
                    shutil.copyfileobj(source, target, 1 << 20)
                parts[part] = split
    except (zipfile.BadZipFile, KeyError) as e:
        raise CorpusError(f"{path}: {e}") from None
    return parts


# ---- Any text of this machine --------------------------------------------------------------------

def read_document(path):
    text = textform.decode(path.read_bytes(), path)
    return textform.normal_form(text, markdown=path.suffix == ".md")


def read_splits(folder):
    """(file, split) of a folder's MANIFEST.tsv, a table with the columns file and split; None without such a file."""
    path = folder / "MANIFEST.tsv"
    if not path.is_file():
        return None
    rows = [line.split("\t") for line in textform.decode(path.read_bytes(), path).splitlines() if line]
    if not rows or "file" not in rows[0] or "split" not in rows[0]:
        raise CorpusError(f"{path}: needs a first line with the columns file and split")
    file, split = rows[0].index("file"), rows[0].index("split")
    for number, row in enumerate(rows[1:], 2):
        if len(row) <= max(file, split) or row[split] not in (*SPLITS, "test"):
            raise CorpusError(f"{path}:{number}: split must be train, val or test")
        if not (folder / row[file]).resolve().is_relative_to(folder.resolve()):
            raise CorpusError(f"{path}:{number}: {row[file]} is outside of the folder")
    return [(folder / row[file], row[split]) for row in rows[1:]]


def make_local(source, out, val):
    if source.is_file():
        write_text(out / "train.txt", read_document(source))
        return str(source)
    if not source.is_dir():
        raise UsageError(f"--from {source}: no such file or folder")
    listed = read_splits(source)
    if listed:
        splits = {split: [read_document(path) for path, s in listed if s == split] for split in SPLITS}
    else:
        paths = sorted(p for p in source.rglob("*") if p.suffix in (".txt", ".md") and p.is_file() and
                       not any(part.startswith(".") for part in p.relative_to(source).parts))
        if not paths:
            raise UsageError(f"--from {source}: no .txt or .md file in this folder")
        splits = split_every((read_document(path) for path in paths), val)
    for split, documents in splits.items():
        text = textform.join_documents(d for d in documents if d)
        if text:
            write_text(out / f"{split}.txt", text)
    return str(source)


# ---- Making, checking, keeping -------------------------------------------------------------------

def write_text(path, text):
    with open(path, "w", encoding="utf-8", newline="") as f:
        f.write(text)


def hashes(folder):
    return {f"{s}.txt": fetch.sha256_file(folder / f"{s}.txt") for s in SPLITS if (folder / f"{s}.txt").is_file()}


def check_made(name, entry, folder, args):
    """Compares what was made with the manifest."""
    if not (folder / "train.txt").is_file() or not (folder / "train.txt").stat().st_size:
        raise CorpusError(f"{name}: there is no text in the source")
    for file, want in entry.get("sha256", {}).items():
        got = fetch.sha256_file(folder / file)
        if got == want:
            continue
        differs = (f"{name}: {file} has SHA-256 {got[:16]}..., the manifest {want[:16]}...: the source is not version "
                   f"{entry.get('version', 'as pinned')}")
        if not args.any_version:
            raise CorpusError(f"{differs}; --any-version takes it as it is")
        print(f"warning: {differs}, so figures will differ a little from published ones", file=sys.stderr)


def is_ready(entry, folder, args):
    """Whether the folder holds the corpus as it was written, and as the manifest has it."""
    source = folder / "SOURCE.txt"
    if not source.is_file():
        return False
    recorded = dict(line.split()[1:3] for line in source.read_text(encoding="utf-8").splitlines()
                    if line.startswith("sha256 "))
    pinned = {} if args.any_version else entry.get("sha256", {})
    return bool(recorded) and hashes(folder) == recorded and \
        all(recorded.get(file) == want for file, want in pinned.items())


def describe(name, entry, made_from, folder):
    lines = [f"corpus {name}", f"title {entry.get('title', 'text of this machine')}",
             f"licence {entry.get('licence', 'unknown')}", f"source {made_from}"]
    for file, digest in hashes(folder).items():
        lines.append(f"sha256 {file} {digest} {(folder / file).stat().st_size} bytes")
    return "\n".join(lines) + "\n"


def put_in_place(made, target):
    """Makes a finished folder the corpus; an old one of the name makes way."""
    old = None
    if target.exists():
        old = target.with_name(f".{target.name}.{os.getpid()}.old")
        os.rename(target, old)
    os.rename(made, target)
    if old:
        shutil.rmtree(old)


def make(name, entry, out, args, manifest, work):
    if not entry:
        return make_local(args.source, out, {"first": args.val_every, "every": args.val_every})
    if entry["kind"] == "debian":
        return make_debian(entry, out, args, work)
    if entry["kind"] == "url":
        return make_url(entry, out, args, work)
    return make_join(entry, out, args, manifest)


def prepare(name, entry, args, manifest):
    target = args.out / name
    if not args.force and (entry or not args.source) and is_ready(entry, target, args):
        print(f"{name}: ready in {target}")
        return
    args.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{name}.", dir=args.out) as temporary:
        work, made = pathlib.Path(temporary) / "work", pathlib.Path(temporary) / "made"
        work.mkdir()
        made.mkdir()
        print(f"{name}: preparing ...", flush=True)
        made_from = make(name, entry, made, args, manifest, work)
        check_made(name, entry, made, args)
        write_text(made / "SOURCE.txt", describe(name, entry, made_from, made))
        put_in_place(made, target)
    sizes = ", ".join(f"{file} {(target / file).stat().st_size:,} bytes" for file in hashes(target))
    print(f"{name}: {sizes} in {target}")


def list_corpora(manifest):
    for name, entry in manifest.items():
        source = entry.get("package") or (" + ".join(entry["parts"]) if "parts" in entry else "download")
        print(f"{name:16} {source:20} {entry['licence']}\n{'':16} {entry['title']}")
    print("\nAny folder or file of text: ./data/prepare.py NAME --from PATH")


def parse_arguments(argv):
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("name", nargs="*", metavar="NAME", help="corpus to prepare; --list shows them")
    p.add_argument("--list", action="store_true", help="list the corpora with source and licence")
    p.add_argument("--from", dest="source", type=pathlib.Path, metavar="PATH",
                   help="take the text from this file or folder (documents: *.txt and *.md, or as its MANIFEST.tsv "
                        "says); for a NAME of the list, the folder of its .deb or downloaded files")
    p.add_argument("--out", type=pathlib.Path, metavar="DIR",
                   default=pathlib.Path(os.environ.get("SINKLAB_DATA") or HERE / "corpora"),
                   help="folder of corpora; default $SINKLAB_DATA, else data/corpora")
    p.add_argument("--val-every", type=int, default=20, metavar="N",
                   help="--from a folder without MANIFEST.tsv: hold out every N-th document (default 20)")
    p.add_argument("--any-version", action="store_true", help="accept a text that differs from the pinned SHA-256")
    p.add_argument("--force", action="store_true", help="prepare again even if it is there")
    args = p.parse_args(argv)
    if not args.name and not args.list:
        p.error("give a NAME, or --list")
    if args.val_every < 2:
        p.error("--val-every must be at least 2")
    return args


def check_name(name, args, manifest):
    if name in manifest:
        if args.source and manifest[name]["kind"] != "join" and not args.source.exists():
            raise UsageError(f"--from {args.source}: no such file or folder")
        return
    if not args.source:
        raise UsageError(f"no corpus {name!r}; --list shows those that can be prepared, --from PATH takes any text")
    if not name or name.startswith(".") or "/" in name:
        raise UsageError(f"{name!r} can't be the name of a corpus: it becomes a folder's name")
    if len(args.name) > 1:
        raise UsageError("with --from give one NAME")


def main(argv=None):
    args = parse_arguments(argv)
    try:
        manifest = json.loads((HERE / "manifest.json").read_text(encoding="utf-8"))
        if args.list:
            list_corpora(manifest)
        for name in args.name:
            check_name(name, args, manifest)
        for name in args.name:
            prepare(name, manifest.get(name, {}), args, manifest)
    except UsageError as e:
        print(f"prepare.py: {e}", file=sys.stderr)
        return 2
    except (CorpusError, TextError, fetch.FetchError, OSError) as e:
        print(f"prepare.py: {e}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("prepare.py: interrupted; nothing was changed", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
