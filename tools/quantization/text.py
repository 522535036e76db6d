"""Writes conversations of the demo model's kind that it has not seen, as one text.

    text.py CONVERSATIONS > FILE
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
rng = random.Random(20261123)
for _ in range(int(sys.argv[1])):
    messages, tools = corpus.sample(rng)
    sys.stdout.write(template.render(messages=messages, tools=tools))
