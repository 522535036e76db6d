"""Renders chat templates with transformers and stores what came out as golden files.

Each file in `sources/` is a template written for this project that exercises what published chat
templates do. Every template is rendered over the conversations below; cases where the template
raises are stored as errors. Run:

    pip install -r requirements.txt
    python make_templates.py ../../../crates/moeflux/tests/fixtures/templates
"""

import argparse
import json
from pathlib import Path

import jinja2
import transformers
from transformers.utils.chat_template_utils import render_jinja_template

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a place's <today> & tomorrow, \"quoted\" 'so'.",
        "parameters": {
            "type": "object",
            "properties": {
                "place": {"type": "string", "description": "Größe, 東京, 🎈", "enum": ["a", "b"]},
                "days": {"type": ["integer", "null"], "default": 3, "minimum": 0.5},
                "units": {"type": "object", "properties": {"z": {"type": "string"}, "a": {}}},
            },
            "required": ["place"],
        },
    },
}
CLOCK = {
    "type": "function",
    "function": {"name": "clock", "parameters": {"type": "object", "properties": {}}},
}


def call(name, arguments, identifier="call_1"):
    return {
        "id": identifier,
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


CONVERSATIONS = {
    "one_turn": {"messages": [{"role": "user", "content": "Hello, who are you?"}]},
    "system": {
        "messages": [
            {"role": "system", "content": "  Be brief.\n"},
            {"role": "user", "content": "Hi <b>&amp;\u00a0'you'</b> \"there\""},
        ]
    },
    "multi_turn": {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "First"},
            {"role": "assistant", "content": "<think>\nhm\n</think>\n\nOne"},
            {"role": "user", "content": "Größer? 東京 🎈\n\nnew line\ttab"},
            {"role": "assistant", "content": "Two </think> three", "reasoning_content": "why\nnot "},
            {"role": "user", "content": ""},
        ]
    },
    "tools": {
        "messages": [{"role": "user", "content": "Weather?"}],
        "tools": [WEATHER, CLOCK],
    },
    "tool_calls": {
        "messages": [
            {"role": "system", "content": "You have tools."},
            {"role": "user", "content": "Weather in Tōkyō?"},
            {
                "role": "assistant",
                "content": None,
                "reasoning": "look it up",
                "tool_calls": [
                    call("get_weather", {"place": "Tōkyō <x>", "days": 2, "deep": {"b": [1, 2.5, None, True], "a": {}}}),
                    call("clock", {}, "call_2"),
                ],
            },
            {"role": "tool", "tool_call_id": "call_1", "name": "get_weather", "content": "{\"rain\": false}"},
            {"role": "tool", "tool_call_id": "call_2", "name": "clock", "content": "12:00"},
            {"role": "assistant", "content": "No rain.", "tool_calls": []},
            {"role": "user", "content": "Thanks"},
        ],
        "tools": [WEATHER, CLOCK],
    },
    "parts": {
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "Look: "},
                    {"type": "image", "image": "x.png"},
                    {"type": "text", "text": "what is it?"},
                ],
            }
        ]
    },
    "open_answer": {
        "messages": [
            {"role": "user", "content": "Count"},
            {"role": "assistant", "content": "1 2 3"},
        ],
        "add_generation_prompt": False,
    },
    "no_thinking": {
        "messages": [{"role": "user", "content": "Quick"}],
        "variables": {"enable_thinking": False, "reasoning_effort": "low", "bias": 1e-07},
    },
    "bad_role": {"messages": [{"role": "critic", "content": "No"}]},
}
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}


def render(template, conversation):
    inputs = {
        "messages": conversation["messages"],
        "tools": conversation.get("tools"),
        "add_generation_prompt": conversation.get("add_generation_prompt", True),
        "variables": {**TOKENS, **conversation.get("variables", {})},
    }
    case = {"inputs": inputs}
    try:
        rendered, _ = render_jinja_template(
            conversations=[inputs["messages"]],
            tools=inputs["tools"],
            chat_template=template,
            add_generation_prompt=inputs["add_generation_prompt"],
            **inputs["variables"],
        )
        case["expected"] = rendered[0]
    except (jinja2.TemplateError, TypeError, ValueError) as error:
        case["error"] = str(error)
    return case


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    for path in sorted((Path(__file__).parent / "sources").glob("*.jinja")):
        template = path.read_text()
        # The feature list does not look at its messages.
        names = ["one_turn"] if path.stem == "features" else CONVERSATIONS
        cases = {name: render(template, CONVERSATIONS[name]) for name in names}
        golden = {
            "made_by": f"transformers {transformers.__version__}, jinja2 {jinja2.__version__}",
            "template": template,
            "cases": cases,
        }
        text = json.dumps(golden, ensure_ascii=False, indent=1) + "\n"
        (out / f"{path.stem}.json").write_text(text)
        errors = [name for name, case in cases.items() if "error" in case]
        print(f"{path.stem}: {len(cases)} cases, errors: {errors or 'none'}")


if __name__ == "__main__":
    main()
