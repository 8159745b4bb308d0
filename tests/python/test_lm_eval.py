"""The model class for lm-evaluation-harness, on tasks of this folder. It needs the harness."""
import os
import sys
from pathlib import Path

import lm_eval
import numpy as np
from lm_eval.tasks import TaskManager

sys.path.insert(0, str(Path(os.environ["SL_TESTS"], "e2e")))
import common
import sinklab
import sinklab.lm_eval_model

TASKS = {
    "pairs": """
output_type: multiple_choice
doc_to_text: "the {{noun}}"
doc_to_target: 0
doc_to_choice: [" sat on a mat", " tas no a tam"]
metric_list: [{metric: acc}]
""",
    "rolling": """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: byte_perplexity}]
""",
    "goes_on": """
output_type: generate_until
doc_to_text: "the {{noun}}"
doc_to_target: "x"
generation_kwargs: {until: ["."], max_gen_toks: 12}
metric_list: [{metric: exact_match}]
"""}


class Harness(common.EndToEnd):
    def test_tasks(self) -> None:
        self.train("run", "train.steps=150")
        text = common.corpus_text()[:300]
        lines = [f'{{"noun": "{noun}", "text": "{text[:250]}"}}'.replace("\n", "\\n") for noun in ("cat", "dog", "man")]
        Path("docs.jsonl").write_text("\n".join(lines) + "\n")
        Path("tasks").mkdir()
        for name, task in TASKS.items():
            Path(f"tasks/{name}.yaml").write_text(
                f"task: {name}\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: docs.jsonl}}}}\n"
                f"test_split: test\n{task}")
        found = lm_eval.simple_evaluate(
            model="sinklab", model_args="path=run,threads=1", tasks=list(TASKS), batch_size=2, log_samples=True,
            bootstrap_iters=0, task_manager=TaskManager(include_path="tasks", include_defaults=False))
        m = sinklab.open("run")
        for sample in found["samples"]["pairs"]:
            for (context, scored), resp in zip(sample["arguments"], sample["resps"]):
                ids = m.encode(context + scored)
                loss = m.forward(ids).token_loss[0, len(m.encode(context)) - 1:-1].sum()
                self.assertAlmostEqual(float(resp[0][0]), -loss, places=3)
        self.assertEqual(found["results"]["pairs"]["acc,none"], 1.0)
        ids = m.tokenizer.encode(text[:250])
        total = 0.0
        for first in range(0, len(ids), 32):
            part = ids[first:first + 32]
            before = 256 if first == 0 else ids[first - 1]
            if len(part) < 32:  # as much context as there is room for
                window = ids[len(ids) - 33:]
                total += m.forward(window[:-1], window[1:]).token_loss[0, -len(part):].sum()
            else:
                total += m.forward(np.concatenate([[before], part[:-1]]), part).token_loss.sum()
        expected = np.exp(total / len(text[:250].encode()))
        self.assertAlmostEqual(found["results"]["rolling"]["byte_perplexity,none"], expected, places=3)
        for sample in found["samples"]["goes_on"]:
            context = sample["arguments"][0][0]
            new = m.generate(context, 12, temperature=0)[len(context):]
            self.assertEqual(sample["resps"][0][0], new.partition(".")[0])


if __name__ == "__main__":
    common.main()
