"""Shell completion and the manual page, which are made from the tables: in bash by its own function, in zsh and fish
and by groff and mandoc where there are these."""

import json
import re
import shutil
import subprocess
import unittest
from pathlib import Path

import common

# Words as bash gives them to a function of completion, "=" as a word of its own; what it offers, a line each.
BASH = """
source ./completion.bash
compopt() { :; }
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
_sinklab
printf '%s\\n' "${COMPREPLY[@]}"
"""

# What completes an operand in zsh, with words in place of the builtins of its completion system.
ZSH = """
compdef() { :; }
compset() { [[ -n $IPREFIX ]]; }
compadd() { [[ $3 = -a ]] && print -rl -- ${(P)4} || print -rl -- $@[2,-1]; }
_files() { print FILES; }
source ./completion.zsh
IPREFIX=$1
_sinklab_operand
"""


class Completion(common.EndToEnd):
    keys: list[dict]
    verbs: list[str]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        for shell in ("bash", "fish", "zsh"):
            script = subprocess.run([common.SINKLAB, "completion", shell], check=True, capture_output=True).stdout
            Path(f"completion.{shell}").write_bytes(script)
        cls.keys = json.loads(subprocess.run([common.SINKLAB, "config", "--json"], check=True,
                                             capture_output=True).stdout)
        listed = subprocess.run([common.SINKLAB, "help"], check=True, capture_output=True, text=True).stdout
        cls.verbs = re.findall(r"^  (\w\S*)", listed, re.M)
        Path("folder").mkdir(exist_ok=True)
        Path("a name with blanks.yaml").touch()

    def bash(self, *words: str) -> set[str]:
        p = subprocess.run(["bash", "--norc", "-c", BASH, "-", "sinklab", *words], check=True, capture_output=True,
                           text=True)
        self.assertEqual(p.stderr, "")
        return set(p.stdout.splitlines()) - {""}

    def help_flags(self, verb: str) -> set[str]:
        return set(re.findall(r"^  (--[\w-]+)", self.sinklab(verb, "--help").stdout.decode(), re.M))

    def test_verbs(self) -> None:
        self.assertEqual(self.bash(""), {*self.verbs, "help", "--help", "--version"})
        self.assertEqual(self.bash("help", ""), self.bash(""))
        self.assertEqual(self.bash("tra"), {"train"})
        self.assertEqual(self.bash("zzz"), set())

    def test_flags(self) -> None:
        for verb in self.verbs:
            with self.subTest(verb):
                self.assertEqual(self.bash(verb, "-"), self.help_flags(verb))

    def test_files(self) -> None:
        here = {path.name for path in Path(".").iterdir()}
        for words in (["train", ""], ["train", "--out", ""], ["train", "--out", "=", ""], ["train", "--out", "="],
                      ["train", "t.yaml", "data.corpus", "="], ["probe", ""], ["watch", ""]):
            self.assertEqual(self.bash(*words), here, words)
        self.assertEqual(self.bash("train", "a n"), {"a name with blanks.yaml"})
        self.assertEqual(self.bash("train", "t.yaml", "data.corpus=fol"), {"data.corpus=folder"})
        for words in (["models", ""], ["generate", "t.yaml", "--tokens", ""], ["generate", "t.yaml", "--tokens", "="]):
            self.assertEqual(self.bash(*words), set(), words)

    def test_keys(self) -> None:
        names = {key["key"] for key in self.keys}
        self.assertEqual({word for word in self.bash("train", "t.yaml", "") if word.endswith("=")},
                         {name + "=" for name in names})
        self.assertEqual(self.bash("eval", "run", "model.norm_opts.g"),
                         {name + "=" for name in names if name.startswith("model.norm_opts.g")})
        norms = {choice["value"] for key in self.keys if key["key"] == "model.norm" for choice in key["choices"]}
        self.assertEqual(self.bash("train", "t.yaml", "model.norm", "="), norms)
        self.assertEqual(self.bash("train", "t.yaml", "train.tensorboard", "=", ""), {"true", "false"})
        self.assertEqual(self.bash("train", "t.yaml", "train.lr", "=", ""), set())
        self.assertEqual(self.bash("train", "t.yaml", "model.norm", "=", "ga"), {"gated_norm"})
        # Where "=" breaks no words:
        self.assertEqual(self.bash("train", "t.yaml", "model.norm=ga"), {"model.norm=gated_norm"})

    def test_all_values(self) -> None:
        """Each key with names for its values has a line in each script."""
        named = [key for key in self.keys if "choices" in key]
        self.assertGreater(len(named), 20)
        bash, zsh = (Path(f"completion.{shell}").read_text() for shell in ("bash", "zsh"))
        fish = Path("completion.fish").read_text()
        for key in named:
            values = [choice["value"] for choice in key["choices"]]
            self.assertIn(f'{key["key"]}) values="{" ".join(values)}" ;;\n', bash)
            self.assertIn(f'{key["key"]}) compadd -- {" ".join(values)} ;;\n', zsh)
            self.assertIn(" " + " ".join(f'{key["key"]}={value}' for value in values) + "\n", fish)

    def test_operands(self) -> None:
        self.assertEqual(self.bash("completion", ""), {"bash", "fish", "zsh"})
        self.assertEqual(self.bash("bench", "bench-1"), {"bench-1m", "bench-10m", "bench-100m"})

    @unittest.skipUnless(shutil.which("zsh"), "no zsh")
    def test_zsh(self) -> None:
        def operand(prefix: str) -> list[str]:
            """What is offered behind a prefix, "" or key=."""
            p = subprocess.run(["zsh", "-f", "-c", ZSH, "-", prefix], check=True, capture_output=True, text=True)
            self.assertEqual(p.stderr, "")
            return p.stdout.splitlines()
        self.assertEqual(operand(""), [key["key"] + "=" for key in self.keys] + ["FILES"])
        self.assertEqual(operand("data.corpus="), ["FILES"])
        self.assertEqual(operand("train.tensorboard="), ["true", "false"])
        self.assertEqual(operand("train.lr="), [])

    @unittest.skipUnless(shutil.which("fish"), "no fish")
    def test_fish(self) -> None:
        def offers(line: str) -> set[str]:
            p = subprocess.run(["fish", "--no-config", "-c", f"source completion.fish; complete -C {line!r}"],
                               check=True, capture_output=True, text=True)
            self.assertEqual(p.stderr, "")
            return {offer.split("\t")[0] for offer in p.stdout.splitlines()}
        self.assertEqual(offers("sinklab tra"), {"train"})
        self.assertLessEqual(set(self.verbs), offers("sinklab "))
        self.assertEqual(offers("sinklab quantize -"), self.help_flags("quantize"))
        self.assertEqual(offers("sinklab train t.yaml model.norm=ga"), {"model.norm=gated_norm"})
        self.assertEqual(offers("sinklab train t.y"), {"t.yaml"})
        self.assertEqual(offers("sinklab train t.yaml data.corpus=corp"), {"data.corpus=corpus.txt"})
        self.assertEqual(offers("sinklab train t.yaml data.tokeni"), {"data.tokenizer="})
        self.assertEqual(offers("sinklab completion z"), {"zsh"})


class Manual(common.EndToEnd):
    def test_says_all(self) -> None:
        page = self.sinklab("man").stdout.decode().replace("\\-", "-")
        verbs = re.findall(r"^  (\w\S*)", self.sinklab("help").stdout.decode(), re.M)
        self.assertEqual(re.findall(r"^\.SS (.+)$", page, re.M), verbs)
        for key in self.json("config", "--json"):
            self.assertIn(f"\\fB{key['key']}\\fR=", page)
        for verb in verbs:
            for flag in re.findall(r"^  (--[\w-]+)", self.sinklab(verb, "--help").stdout.decode(), re.M):
                self.assertTrue(f"\\fB{flag}\\fR" in page or flag == "--help", flag)

    @unittest.skipUnless(shutil.which("groff"), "no groff")
    def test_groff(self) -> None:
        page = self.sinklab("man").stdout
        p = subprocess.run(["groff", "-man", "-Tascii", "-ww", "-z"], input=page, capture_output=True)
        self.assertEqual((p.returncode, p.stderr), (0, b""))

    @unittest.skipUnless(shutil.which("mandoc"), "no mandoc")
    def test_mandoc(self) -> None:
        """No date stands in it, so that a build makes the same page on any day."""
        p = subprocess.run(["mandoc", "-T", "lint", "-W", "warning"], input=self.sinklab("man").stdout,
                           capture_output=True)
        self.assertEqual([line for line in p.stdout.decode().splitlines() if "missing date" not in line], [])


if __name__ == "__main__":
    common.main()
