"""data/prepare.py: normal form, SWORD modules, Markdown, packages, downloads, and one message a mistake. No network."""
import contextlib
import functools
import hashlib
import http.server
import io
import json
import lzma
import os
import struct
import sys
import tarfile
import tempfile
import threading
import unittest
import zipfile
import zlib
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "data"))

import fetch
import prepare
import textform

MANIFEST = json.loads((prepare.HERE / "manifest.json").read_text(encoding="utf-8"))


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def sword_part(texts):
    """Index and blocks of a module part."""
    index = blocks = b""
    for text in texts:
        packed = zlib.compress(text.encode())
        index += struct.pack("<III", len(blocks), len(packed), len(text.encode()))
        blocks += packed
    return index, blocks


def make_deb(path, files):
    """A .deb as dpkg-deb makes it: an ar archive of debian-binary, control.tar.xz and data.tar.xz."""
    def tar(entries):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as archive:
            for name, data in entries.items():
                member = tarfile.TarInfo("./" + name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
        return lzma.compress(out.getvalue())
    control = b"Package: x\nVersion: 1\nArchitecture: all\nMaintainer: x <x@x.invalid>\nDescription: x\n"
    with open(path, "wb") as f:
        f.write(b"!<arch>\n")
        for name, data in (("debian-binary", b"2.0\n"), ("control.tar.xz", tar({"control": control})),
                           ("data.tar.xz", tar(files))):
            f.write(f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode())
            f.write(data + b"\n" * (len(data) % 2))


class NormalForm(unittest.TestCase):
    def check(self, text, want, **options):
        self.assertEqual(textform.normal_form(text, **options), want)

    def test_line_ends(self):
        self.check("a\r\nb\rc\n", "a\nb\nc\n")

    def test_characters(self):
        self.check("\u2018a\u2019 \u201cb\u201d", "'a' \"b\"\n")
        self.check("a\u2013b\u2010c\u2011d\u2014e\u2026", "a-b-c-d--e...\n")
        self.check("a\u00a0b\u2009c\u202fd\u3000e", "a b c d e\n")
        self.check("\ufeffa\u200bb\u2028c\u2029d", "ab\nc\nd\n")
        self.check("\u00e9 \u4e2d \u2015", "\u00e9 \u4e2d \u2015\n")

    def test_blanks_at_line_ends(self):
        self.check("a \t\nb\u00a0\n c\t", "a\nb\n c\n")

    def test_markdown_furniture(self):
        text = "# Title\n## Author\n-----\na\n----\n------ \n#x"
        self.check(text, "a\n----\n", markdown=True)
        self.check(text, text.replace("------ ", "------") + "\n")

    def test_blank_lines(self):
        self.check("\n\na\n\n\n\nb\n \n\t\nc\n\n\n", "a\n\nb\n\nc\n")
        self.check("a\n\nb", "a\n\nb\n")
        self.check(" \n\t\n\n", "")
        self.check("", "")

    def test_furniture_leaves_one_blank_line(self):
        self.check("a\n\n# x\n\n-----\n\nb", "a\n\nb\n", markdown=True)

    def test_join(self):
        self.assertEqual(textform.join_documents(["a\n", "b\n"]), "a\n<|endoftext|>\nb\n")


class Sword(unittest.TestCase):
    def test_reads_both_testaments(self):
        ot, nt = sword_part(["", "<p>Ps</p>"]), sword_part(["Matt"])
        files = {"nt.bzs": nt[0], "nt.bzz": nt[1], "ot.czs": ot[0], "ot.czz": ot[1], "ot.czv": b"x"}
        self.assertEqual(list(textform.sword_documents(files, "m")), ["Ps\n", "Matt\n"])

    def test_markup(self):
        for markup, want in (
                ("<div sID=\"a\" type=\"x-p\"/> One &amp; two. <div eID=\"a\"/><div sID=\"b\"/>Three",
                 "One & two.\n\nThree\n"),
                ("a<note type=\"x\">gone <reference>Ps 1</reference></note>b", "ab\n"),
                ("<title>T</title>text", "T\n\ntext\n"),
                ("<l sID=\"1\"/>one<l eID=\"1\"/> <l sID=\"2\"/>two<l eID=\"2\"/>", "one\ntwo\n"),
                ("<w lemma=\"strong:H1\">In</w> <w>the</w> <hi type=\"bold\">end</hi>", "In the end\n"),
                ("<row><cell>1</cell><cell>2</cell></row><row><cell>3</cell></row>", "1 2\n3\n"),
                ("&lt;p&gt;", "<p>\n")):
            self.assertEqual(textform.normal_form(textform.osis_text(markup)), want, markup)

    def test_damaged(self):
        index, blocks = sword_part(["one", "two"])
        offset, packed, plain = struct.unpack("<III", index[12:])
        for bad_index, bad_blocks, message in (
                (index[:-1], blocks, "no multiple of 12"),
                (index, blocks[:-1], "block 1 ends at byte"),
                (index[:12] + struct.pack("<III", 1 << 31, packed, plain), blocks, "block 1 ends at byte"),
                (index[:12] + struct.pack("<III", offset, packed, plain + 1), blocks,
                 "block 1 has 3 bytes, the index says 4"),
                (index[:12] + struct.pack("<III", offset, packed, plain - 1), blocks, "block 1 has 3 bytes"),
                (index, blocks[:offset] + b"\0" + blocks[offset + 1:], "block 1: Error -3")):
            with self.assertRaises(textform.TextError) as e:
                list(textform.sword_documents({"ot.czs": bad_index, "ot.czz": bad_blocks}, "m"))
            self.assertIn(message, str(e.exception))
            self.assertNotIn("\n", str(e.exception))

    def test_bomb_is_not_unpacked(self):
        packed = zlib.compress(b"\0" * 10_000_000)
        with self.assertRaises(textform.TextError):
            list(textform.sword_blocks(struct.pack("<III", 0, len(packed), 5), packed, "m"))

    def test_no_module(self):
        with self.assertRaises(textform.TextError):
            list(textform.sword_documents({"ot.czs": b""}, "m"))


class Markdown(unittest.TestCase):
    def test_text(self):
        for markup, want in (
                ("a [link](x.md) and\n**bold** _it_ snake_case", "a link and bold it snake_case"),
                ("## Head\n\npara one\ngoes on\n\n> quoted\n> on", "Head\n\npara one goes on\n\nquoted on"),
                ("* one\n* two\n  more\n\n* * *\n\n---\n", "- one\n\n- two more"),
                ("line one  \nline two", "line one\n\nline two"),
                ("co-\noperative", "co-operative"),
                ("_What is Property_ , p. 2 and [ **X** , p. 3]", "What is Property, p. 2 and [X, p. 3]"),
                ("![image](a.png) <http://x.invalid> \\* &amp;", "* &"),
                ("[\u2039 back](a.md \"Go to previous page\") end", "end")):
            self.assertEqual(textform.markdown_text(markup), want, markup)


class InFolder(unittest.TestCase):
    def setUp(self):
        holder = tempfile.TemporaryDirectory()
        self.addCleanup(holder.cleanup)
        self.root = Path(holder.name)
        self.out = self.root / "out"

    def run_prepare(self, *argv):
        """Exit code, standard output and error."""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = prepare.main([*map(str, argv), "--out", str(self.out)])
            except SystemExit as e:
                code = e.code
        return code, out.getvalue(), err.getvalue()

    def refused(self, code, message, *argv):
        got, _, err = self.run_prepare(*argv)
        self.assertIn(message, err)
        self.assertEqual(got, code, err)
        if not err.startswith("usage:"):
            self.assertEqual(err.count("\n"), 1, err)
        if self.out.is_dir():
            self.assertEqual([p.name for p in self.out.iterdir() if p.name.startswith(".")], [])

    def manifest(self, entries):
        """Puts a manifest of the test's own in force, with the modules' folder."""
        here = self.root / "here"
        here.mkdir(exist_ok=True)
        (here / "manifest.json").write_text(json.dumps(entries))
        patch = mock.patch.object(prepare, "HERE", here)
        patch.start()
        self.addCleanup(patch.stop)

    def read(self, name, file):
        return (self.out / name / file).read_text(encoding="utf-8")


class Local(InFolder):
    def test_file(self):
        (self.root / "a.txt").write_bytes(b"one\r\ntwo\r\n")
        self.assertEqual(self.run_prepare("mine", "--from", self.root / "a.txt")[0], 0)
        self.assertEqual(self.read("mine", "train.txt"), "one\ntwo\n")
        self.assertFalse((self.out / "mine/val.txt").exists())
        self.assertIn(f"sha256 train.txt {sha256(b'one' + bytes([10]) + b'two' + bytes([10]))} 8 bytes",
                      self.read("mine", "SOURCE.txt"))

    def test_folder(self):
        source = self.root / "texts"
        (source / "sub").mkdir(parents=True)
        for k in range(6):
            (source / f"{k}.txt").write_text(f"{k}")
        (source / "sub/7.md").write_text("# head\nseven")
        (source / "notes.pdf").write_text("no")
        (source / ".hidden.txt").write_text("no")
        self.assertEqual(self.run_prepare("mine", "--from", source, "--val-every", 3)[0], 0)
        mark = "<|endoftext|>\n"
        self.assertEqual(self.read("mine", "train.txt"), mark.join(["0\n", "1\n", "3\n", "4\n", "seven\n"]))
        self.assertEqual(self.read("mine", "val.txt"), "2\n" + mark + "5\n")

    def test_manifest_of_splits(self):
        source = self.root / "texts"
        source.mkdir()
        for name in "abcd":
            (source / f"{name}.txt").write_text(name)
        (source / "MANIFEST.tsv").write_text(
            "x\tfile\tsplit\n\tc.txt\ttrain\n\tb.txt\tval\n\ta.txt\ttrain\n\td.txt\ttest\n")
        self.assertEqual(self.run_prepare("mine", "--from", source)[0], 0)
        self.assertEqual(self.read("mine", "train.txt"), "c\n<|endoftext|>\na\n")
        self.assertEqual(self.read("mine", "val.txt"), "b\n")
        for table, message in (("a\tb\n", "needs a first line"), ("file\tsplit\na.txt\tdev\n", "MANIFEST.tsv:2: split"),
                               ("file\tsplit\na.txt\n", "MANIFEST.tsv:2: split"),
                               ("file\tsplit\n../../x\ttrain\n", "outside of the folder"),
                               ("file\tsplit\nnone.txt\ttrain\n", "none.txt")):
            (source / "MANIFEST.tsv").write_text(table)
            self.refused(1, message, "mine", "--from", source)
        self.assertEqual(self.read("mine", "val.txt"), "b\n")  # what was there is still there

    def test_mistakes(self):
        self.refused(2, "no corpus 'nosuch'; --list", "nosuch")
        self.refused(2, "give a NAME", )
        self.refused(2, "no such file or folder", "mine", "--from", self.root / "none")
        self.refused(2, "can't be the name", "a/b", "--from", self.root)
        self.refused(2, "can't be the name", "..", "--from", self.root)
        self.refused(2, "--val-every", "mine", "--from", self.root, "--val-every", 1)
        (self.root / "texts").mkdir()
        self.refused(2, "no .txt or .md file", "mine", "--from", self.root / "texts")
        (self.root / "texts/a.txt").write_bytes(b"ab\xff")
        self.refused(1, "a.txt: not UTF-8 at byte 2", "mine", "--from", self.root / "texts")
        (self.root / "texts/a.txt").write_bytes(b" \n")
        self.refused(1, "mine: there is no text in the source", "mine", "--from", self.root / "texts")
        self.out.rmdir()
        self.out.write_text("a file")
        self.refused(1, str(self.out), "mine", "--from", self.root / "texts")


class Packages(InFolder):
    def setUp(self):
        super().setUp()
        index, blocks = sword_part(["<p>one\u2019s</p>", "two", "three", "four", "five"])
        self.deb = self.root / "module_1-1_all.deb"
        make_deb(self.deb, {"usr/share/m/ot.czs": index, "usr/share/m/ot.czz": blocks, "usr/share/other/x": b"x"})
        self.entry: dict = {"title": "t", "licence": "l", "kind": "debian", "package": "module", "version": "1-1",
                            "folder": "usr/share/m", "format": "sword", "val": {"first": 2, "every": 3}}
        self.train = b"one's\n<|endoftext|>\nthree\n<|endoftext|>\nfour\n"
        self.entry["sha256"] = {"train.txt": sha256(self.train), "val.txt": sha256(b"two\n<|endoftext|>\nfive\n")}
        self.manifest({"m": self.entry, "both": {"kind": "join", "licence": "l", "parts": ["m", "m"]}})

    def test_prepared_and_reused(self):
        self.assertEqual(self.run_prepare("m", "--from", self.root)[0], 0)
        self.assertEqual(self.read("m", "train.txt").encode(), self.train)
        self.assertIn("module_1-1_all.deb", self.read("m", "SOURCE.txt"))
        inode = (self.out / "m/train.txt").stat().st_ino
        self.deb.unlink()
        self.assertIn("ready", self.run_prepare("m", "--from", self.root)[1])
        self.assertEqual((self.out / "m/train.txt").stat().st_ino, inode)
        with open(self.out / "m/train.txt", "a", encoding="utf-8") as f:
            f.write("x")
        self.refused(2, "no module_*.deb", "m", "--from", self.root)  # no longer as it was written

    def test_without_dpkg(self):
        with mock.patch("shutil.which", return_value=None):
            self.assertEqual(self.run_prepare("m", "--from", self.root)[0], 0)
            self.assertEqual(self.read("m", "train.txt").encode(), self.train)
            data = self.deb.read_bytes()
            for bad, message in ((b"no deb", "not a Debian package"), (data[:-20], "truncated package"),
                                 (data[:8] + b"x" * 60, "damaged package")):
                self.deb.write_bytes(bad)
                self.refused(1, message, "m", "--from", self.root, "--force")
            self.refused(1, "there is no apt-get here", "m", "--force")

    def test_join(self):
        self.assertEqual(self.run_prepare("both", "--from", self.root)[0], 0)
        self.assertEqual(self.read("both", "train.txt").encode(), self.train + b"<|endoftext|>\n" + self.train)

    def test_other_version(self):
        self.entry["sha256"]["val.txt"] = "0" * 64
        self.manifest({"m": self.entry})
        self.refused(1, "--any-version takes it", "m", "--from", self.root)
        self.assertFalse((self.out / "m").exists())
        code, _, err = self.run_prepare("m", "--from", self.root, "--any-version")
        self.assertEqual(code, 0)
        self.assertIn("warning: m: val.txt has SHA-256", err)
        self.assertIn("ready", self.run_prepare("m", "--from", self.root, "--any-version")[1])

    def test_offline(self):
        apt = self.root / "apt-get"
        apt.write_text("#!/bin/sh\necho 'W: never mind' >&2\necho \"E: Unable to locate package $3\" >&2\nexit 100\n")
        apt.chmod(0o755)
        with mock.patch.dict(os.environ, {"PATH": f"{self.root}:{os.environ['PATH']}"}):
            self.refused(1, "package module: E: Unable to locate package module; offline, or run `apt-get update`", "m")


class Urls(InFolder):
    def setUp(self):
        super().setUp()
        self.served = self.root / "served"
        self.served.mkdir()
        handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=self.served)
        patch = mock.patch.object(http.server.SimpleHTTPRequestHandler, "log_message", lambda *a: None)
        patch.start()
        self.addCleanup(patch.stop)
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        for end in (server.server_close, thread.join, server.shutdown):  # the last one first
            self.addCleanup(end)
        self.url = f"http://127.0.0.1:{server.server_port}"
        no_proxy = mock.patch.dict(os.environ, {"no_proxy": "127.0.0.1"})
        no_proxy.start()
        self.addCleanup(no_proxy.stop)

    def entry(self, data, **more):
        (self.served / "f").write_bytes(data)
        file = {"name": "f", "sha256": sha256(data), "urls": [f"{self.url}/missing", f"{self.url}/f"]}
        file.update(more.pop("file", {}))
        return {"title": "t", "licence": "l", "kind": "url", "format": "verbatim", "files": [file], **more}

    def test_cut(self):
        self.manifest({"u": self.entry(b"0123456789", train_bytes=6, val_bytes=3)})
        self.assertEqual(self.run_prepare("u")[0], 0)
        self.assertEqual((self.read("u", "train.txt"), self.read("u", "val.txt")), ("012345", "678"))

    def test_zip(self):
        data = io.BytesIO()
        with zipfile.ZipFile(data, "w") as z:
            z.writestr("d/a", "train\r\n")
            z.writestr("d/b", "val")
        self.manifest({"u": self.entry(data.getvalue(), file={"members": {"d/a": "train", "d/b": "val"}}),
                       "v": self.entry(data.getvalue(), file={"members": {"none": "train"}})})
        self.assertEqual(self.run_prepare("u")[0], 0)
        self.assertEqual((self.out / "u/train.txt").read_bytes(), b"train\r\n")
        self.assertEqual(self.read("u", "val.txt"), "val")
        self.refused(1, "none", "v")

    def test_documents(self):
        text = "\n one\u2019s \r\n\n<|endoftext|>\n\n\n\n<|endoftext|>\ntwo<|endoftext|>\n\n<|endoftext|>"
        self.manifest({"u": self.entry(text.encode(), format="documents")})
        self.assertEqual(self.run_prepare("u")[0], 0)
        self.assertEqual(self.read("u", "train.txt"), " one's\n<|endoftext|>\ntwo<|endoftext|>\n")

    def test_wrong_hash(self):
        self.manifest({"u": self.entry(b"text", file={"sha256": "0" * 64})})
        self.refused(1, "sent 4 bytes with SHA-256 982d9e3eb996f559..., expected 0000000000000000...", "u")
        (self.root / "f").write_bytes(b"text")
        self.refused(1, "it is another file", "u", "--from", self.root)
        self.assertFalse((self.out / "u").exists())

    def test_from_folder(self):
        self.manifest({"u": self.entry(b"text")})
        (self.root / "f").write_bytes(b"text")
        (self.served / "f").unlink()
        self.refused(1, "127.0.0.1: File not found", "u")
        self.refused(2, "no f in this folder", "u", "--from", self.served)
        self.assertEqual(self.run_prepare("u", "--from", self.root)[0], 0)

    def test_offline(self):
        entry = self.entry(b"text")
        entry["files"][0]["urls"] = ["http://127.0.0.1:1/f", "http://nosuchhost.invalid/f"]
        self.manifest({"u": entry})
        self.refused(1, "offline? fetch it elsewhere", "u")


class Manifest(unittest.TestCase):
    def test_is_complete(self):
        for name, entry in MANIFEST.items():
            self.assertTrue(entry["title"] and entry["licence"], name)
            self.assertIn(entry["kind"], ("debian", "url", "join"))
            self.assertTrue(entry["kind"] != "debian" or len(entry["sha256"]) == 2, name)
            for file in entry.get("files", []) if entry["kind"] == "url" else []:
                self.assertRegex(file["sha256"], "^[0-9a-f]{64}$")
                self.assertTrue(all(url.startswith("https://") for url in file["urls"]), name)
            for part in entry.get("parts", []):
                self.assertIn(part, MANIFEST)


@unittest.skipUnless(os.environ.get("SINKLAB_CORPORA"), "SINKLAB_CORPORA names no folder of reference corpora")
class Reference(InFolder):
    """Known hashes of the preparation of a folder that holds classics/, storybooks/ and us-speeches/."""

    def test_hashes(self):
        corpora = Path(os.environ.get("SINKLAB_CORPORA", ""))
        for source, file, want in (
                ("classics", "train.txt", "d091cb329e3f9d2c7dfea3d871be665fc0a6a609ed07e36a61858563a6b9a302"),
                ("classics", "val.txt", "6d1c5d7ae96cb5de5eb4f7b7038803a4cbc39d8c141227b168534dbf43b5f24d"),
                ("storybooks/stories.txt", "train.txt",
                 "d30c89a013d6cc7bc9c9a4985e288abc68cbd3e69f10e695522bb1c584b2938f"),
                ("us-speeches/inaugural.txt", "train.txt",
                 "1464dcfb177035b0bfc0efbeb86a4feaf08e563475b2aeeb545e0f9e6c6d1520"),
                ("us-speeches/sotu.txt", "train.txt",
                 "c0093e4d9d50f02eb4eff086d93a830dff712b4d2e079df93e54c6bc9160e986")):
            name = Path(source).stem
            if not (self.out / name).exists():
                code, _, err = self.run_prepare(name, "--from", corpora / source)
                self.assertEqual(code, 0, err)
            self.assertEqual(fetch.sha256_file(self.out / name / file), want, source)


if __name__ == "__main__":
    unittest.main()
