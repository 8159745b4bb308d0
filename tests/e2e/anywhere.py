"""A run can be read from any folder: text and tokenizer that its configuration names by relative paths are found where
the run found them, whatever files of that name lie around, and after run or project were moved."""

import json
import os
import shutil
from pathlib import Path

import common
from common import complete


def byte_tokenizer() -> dict:
    """A tokenizer.json of all bytes, with one merge."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in plain]
    alphabet = [chr(b) for b in plain] + [chr(256 + i) for i in range(len(rest))]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    end = {"id": 257, "content": "<|endoftext|>", "single_word": False, "lstrip": False, "rstrip": False,
           "normalized": False, "special": True}
    return {"version": "1.0", "added_tokens": [end], "pre_tokenizer": level, "decoder": level,
            "model": {"type": "BPE", "vocab": {c: i for i, c in enumerate([*alphabet, "th"])},
                      "merges": [["t", "h"]]}}


class Anywhere(common.EndToEnd):
    def project(self, name: str, corpus: str, place: str) -> Path:
        """A folder with a corpus at `place`, named `corpus` there, a tokenizer, and the run runs/a of both."""
        folder = Path(name).resolve()
        (folder / place).parent.mkdir(parents=True)
        shutil.copy("corpus.txt", folder / place)
        (folder / "tokenizer.json").write_text(json.dumps(byte_tokenizer()))
        self.sinklab("train", self.folder / "t.yaml", "--out", "runs/a", f"data.corpus={corpus}",
                     "data.tokenizer=bpe:tokenizer.json", cwd=folder)
        return folder

    def figures(self, run: object, cwd: Path) -> tuple[dict, str]:
        """Of eval, which reads the text, and what it says besides."""
        p = self.sinklab("eval", run, "--json", cwd=cwd)
        figures = json.loads(p.stdout)
        return {key: figures[key] for key in ("loss", "tokens")}, p.stderr.decode()

    def other_folder(self, name: str) -> Path:
        """One with other files of the same names."""
        folder = Path(name).resolve()
        (folder / "texts").mkdir(parents=True)
        for text in ("corpus.txt", "texts/corpus.txt"):
            (folder / text).write_text("something else\n" * 500)
        (folder / "tokenizer.json").write_text("{}")
        return folder

    def check(self, name: str, corpus: str, place: str) -> None:
        project, elsewhere = self.project(name, corpus, place), self.other_folder(f"{name}-else")
        want, said = self.figures("runs/a", project)
        self.assertEqual(said, "")
        for cwd in (Path("/"), elsewhere, project / "runs"):
            self.assertEqual(self.figures(project / "runs/a", cwd), (want, ""), cwd)
        self.assertEqual(self.figures(complete(project / "runs/a")[-1], elsewhere), (want, ""))
        self.sinklab("probe", project / "runs/a", "--json", cwd=elsewhere)
        self.sinklab("generate", project / "runs/a", "--tokens", "3", cwd=elsewhere)

        moved_run = Path(f"{name}-run").resolve()
        shutil.copytree(project / "runs/a", moved_run)
        self.assertEqual(self.figures(moved_run, elsewhere), (want, ""))
        os.symlink(moved_run, elsewhere / "link")
        self.assertEqual(self.figures("link", elsewhere), (want, ""))

        moved = project.rename(project.with_name(f"{name}-moved"))
        self.assertEqual(self.figures("runs/a", moved), (want, ""))
        got, said = self.figures(moved / "runs/a", Path("/"))
        self.assertEqual(got, want)
        self.assertEqual(len(said.splitlines()), 2)
        for found in (str(moved / place).removesuffix("/train.txt"), moved / "tokenizer.json"):
            self.assertIn(f" is not where its run found it; reading {found}\n", said)
        self.assertIn("tokenizer.json", self.error("eval", moved_run, cwd=Path("/")))

    def test_a_file(self) -> None:
        self.check("file", "texts/corpus.txt", "texts/corpus.txt")

    def test_a_prepared_corpus(self) -> None:
        self.check("prepared", "small", "data/corpora/small/train.txt")

    def test_damaged_environment(self) -> None:
        """What env.json says is taken only where it makes sense."""
        project = self.project("damaged", "corpus.txt", "corpus.txt")
        want = self.figures("runs/a", project)
        env = project / "runs/a/env.json"
        for text in ("", "[", "[]", '{"corpus": 1, "tokenizer": {}}', '{"corpus": "", "tokenizer": "bpe:"}',
                     '{"corpus": "/no/such/file", "tokenizer": "gguf:/no/such/file"}',
                     '{"corpus": "' + "x" * 5000 + '"}'):
            env.write_text(text)
            self.assertEqual(self.figures("runs/a", project), want, text[:80])
        shutil.copy("corpus.txt", project / "c2")
        env.write_text(json.dumps({"corpus": str(project / "c2"), "tokenizer": "gguf:" + str(project / "c2")}))
        self.assertEqual(self.figures("runs/a", project), want)
        (project / "corpus.txt").unlink()
        self.assertEqual(self.figures("runs/a", project), want)
        self.assertIn("data.corpus", self.error("eval", "runs/a", "data.corpus=corpus.txt", code=2, cwd=project))


if __name__ == "__main__":
    common.main()
