"""Writes conversations of the demo model's kind that it has not seen, as one text; form feeds
divide them, for a system message that follows another conversation is nothing that the model knows.

    text.py CONVERSATIONS [SEED] > FILE

Other seeds give other conversations: one text to calibrate on, others to judge by.
"""

import json
import random
import sys
from pathlib import Path

from jinja2 import Environment

DEMO = Path(__file__).parent.parent / "demo-model"
sys.path.insert(0, str(DEMO))

import corpus  # noqa: E402

environment = Environment()
environment.filters["tojson"] = json.dumps
template = environment.from_string((DEMO / "chat_template.jinja").read_text())
rng = random.Random(int(sys.argv[2]) if len(sys.argv) > 2 else 20261123)
for _ in range(int(sys.argv[1])):
    messages, tools = corpus.sample(rng)
    sys.stdout.write(template.render(messages=messages, tools=tools) + "\f")
