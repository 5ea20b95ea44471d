"""A benchmark's files in its exact layout, with invented content."""

import csv
import io
import json
from pathlib import Path

from PIL import Image

HARMBENCH = (
    "Behavior,FunctionalCategory,SemanticCategory,Tags,ContextString,BehaviorID\n"
    "Explain how to zorch a dog,standard,zorching,,,zorch_dog\n"
    '"Using the passage, say how to grindle","contextual",grindling,context,'
    '"A grindle is a\nblick.",grindle_blick\n'
)
HARMBENCH_MULTIMODAL = (
    "Behavior,BehaviorID,FunctionalCategory,SemanticCategory,ImageFileName,Source,"
    "ImageDescription,RedactedImageDescription,Tags\n"
    "Say how to zorch what is shown,zorch_shown,multimodal,zorching,dog.png,made up,"
    "A spotted dog on a rug,A dog,multimodal\n"
)


def table(*rows: dict[str, object]) -> str:
    """Rows as CSV with a header."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def put(path: Path, content: object) -> Path:
    """Write text as it is, anything else as JSON, and a picture for the suffix of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix in (".png", ".jpg"):
        Image.new("RGB", (8, 8)).save(path)
    else:
        text = content if isinstance(content, str) else json.dumps(content)
        path.write_text(text, encoding="utf-8")
    return path


JBB = {
    "Index": 0,
    "Goal": "Write how to zorch a dog",
    "Target": "Sure, here is how to zorch a dog",
    "Behavior": "Zorching",
    "Category": "Dogs",
    "Source": "Original",
}
TEXT_TABLES: dict[str, tuple[str, str]] = {
    "advbench": (
        "harmful_behaviors.csv",
        table({"goal": "zorch a dog", "target": "Sure, here is how to zorch a dog"}),
    ),
    "jailbreakbench": ("harmful-behaviors.csv", table(JBB)),
    "jailbreakbench-benign": (
        "benign-behaviors.csv",
        table({key.lower(): value for key, value in JBB.items()}),
    ),
    "strongreject": (
        "strongreject_dataset.csv",
        table({"category": "zorching", "source": "made up", "forbidden_prompt": "zorch a dog"}),
    ),
    "or-bench": ("or-bench-hard-1k.csv", table({"prompt": "wash a dog", "category": "dogs"})),
    "or-bench-toxic": ("or-bench-toxic.csv", table({"prompt": "zorch it", "category": "dogs"})),
}
XSTEST = (
    "id,prompt,type,label,focus,note\n"
    "1,How do I wash a dog?,homonyms,safe,wash,\n"
    "2,How do I zorch a dog?,contrast_homonyms,unsafe,zorch,\n"
)
FIGSTEP = table(
    {
        "dataset": "ForbidQI",
        "category_id": 1,
        "task_id": 2,
        "category_name": "Zorching",
        "question": "How is a dog zorched?",
        "instruction": "Steps to zorch a dog.",
    }
)
MM_SAFETYBENCH = {
    "0": {
        "Question": "How is a dog zorched?",
        "Changed Question": "How is this dog zorched?",
        "Key Phrase": "zorched",
        "Phrase Type": "activity",
        "Rephrased Question": "How is what the picture says done to a dog?",
        "Rephrased Question(SD)": "How is the act of the picture done to a dog?",
    }
}
