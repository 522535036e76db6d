"""Talks to `moeflux serve` through the official clients. Usage: check_clients.py PATH_OF_MOEFLUX"""

import json
import re
import subprocess
import sys
import unittest
from pathlib import Path

import anthropic
import openai

DEMO = Path(__file__).resolve().parents[2] / "models" / "demo"
QUESTION = "Which day comes after Tuesday?"
ANSWER = "Wednesday comes after Tuesday."
RAIN = "Is it raining in Paris?"
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
ABOUT = "Get the current weather in a city."
OPENAI_TOOL = {"type": "function", "function": {"name": "get_weather", "description": ABOUT, "parameters": CITY}}
ANTHROPIC_TOOL = {"name": "get_weather", "description": ABOUT, "input_schema": CITY}


class Server:
    """The server as a process."""

    def __init__(self, program):
        command = [program, "serve", "-m", str(DEMO), "--port", "0", "--memory", "1GiB", "--no-warm"]
        self.process = subprocess.Popen(command + ["--api-key", "secret"], stderr=subprocess.PIPE, text=True)
        for line in self.process.stderr:
            found = re.search(r"http://([^/]+)/", line)
            if found:
                self.url = f"http://{found[1]}"
                return
        raise SystemExit("the server did not start")

    def stop(self):
        self.process.terminate()
        return self.process.wait(timeout=60)


def user(text):
    return [{"role": "user", "content": text}]


class OpenAi(unittest.TestCase):
    """The package `openai`."""

    def setUp(self):
        self.client = openai.OpenAI(base_url=f"{SERVER.url}/v1", api_key="secret", max_retries=0)

    def ask(self, text=QUESTION, **more):
        return self.client.chat.completions.create(model="demo", messages=user(text), **more)

    def test_answer(self):
        reply = self.ask()
        self.assertEqual(reply.choices[0].message.content, ANSWER)
        self.assertEqual(reply.choices[0].finish_reason, "stop")
        self.assertGreater(reply.usage.completion_tokens, 3)

    def test_stream(self):
        chunks = list(self.ask(stream=True, stream_options={"include_usage": True}))
        text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        self.assertEqual(text, ANSWER)
        self.assertGreater(chunks[-1].usage.total_tokens, 10)

    def test_tools(self):
        call = self.ask(RAIN, tools=[OPENAI_TOOL]).choices[0].message.tool_calls[0]
        self.assertEqual(call.function.name, "get_weather")
        self.assertEqual(json.loads(call.function.arguments), {"city": "Paris"})

    def test_tools_streamed(self):
        with self.client.chat.completions.stream(model="demo", messages=user(RAIN), tools=[OPENAI_TOOL]) as stream:
            for _ in stream:
                pass
            message = stream.get_final_completion().choices[0].message
        self.assertEqual(json.loads(message.tool_calls[0].function.arguments), {"city": "Paris"})
        talk = user(RAIN) + [message.model_dump(exclude_unset=True)]
        talk.append({"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "It is sunny."})
        reply = self.client.chat.completions.create(model="demo", messages=talk, tools=[OPENAI_TOOL], max_tokens=50)
        self.assertIsNotNone(reply.choices[0].message.content)

    def test_structured_output(self):
        schema = {"type": "object", "properties": {"day": {"enum": ["Monday", "Wednesday"]}}, "required": ["day"],
                  "additionalProperties": False}
        shape = {"type": "json_schema", "json_schema": {"name": "day", "schema": schema, "strict": True}}
        reply = self.ask(response_format=shape, max_tokens=100)
        self.assertIn(json.loads(reply.choices[0].message.content)["day"], ["Monday", "Wednesday"])

    def test_logprobs(self):
        reply = self.ask(logprobs=True, top_logprobs=2)
        tokens = reply.choices[0].logprobs.content
        self.assertEqual("".join(t.token for t in tokens), ANSWER)
        self.assertEqual(len(tokens[0].top_logprobs), 2)

    def test_completion(self):
        prompt = f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n"
        reply = self.client.completions.create(model="demo", prompt=prompt, max_tokens=50)
        self.assertEqual(reply.choices[0].text, ANSWER)

    def test_response(self):
        reply = self.client.responses.create(model="demo", input=QUESTION, max_output_tokens=50)
        self.assertEqual((reply.status, reply.output_text), ("completed", ANSWER))
        self.assertGreater(reply.usage.output_tokens, 3)
        with self.client.responses.stream(model="demo", input=QUESTION) as stream:
            kinds = [event.type for event in stream]
            final = stream.get_final_response()
        self.assertEqual((kinds[0], kinds[-1]), ("response.created", "response.completed"))
        self.assertEqual(final.output_text, ANSWER)

    def test_response_tools(self):
        tool = {"type": "function", **OPENAI_TOOL["function"]}
        reply = self.client.responses.create(model="demo", input=RAIN, tools=[tool])
        call = reply.output[0]
        self.assertEqual((call.type, json.loads(call.arguments)), ("function_call", {"city": "Paris"}))
        result = {"type": "function_call_output", "call_id": call.call_id, "output": "It is sunny."}
        talk = user(RAIN) + [call.model_dump(exclude_none=True), result]
        self.client.responses.create(model="demo", input=talk, tools=[tool], max_output_tokens=30)

    def test_cached_tokens(self):
        story = user("Tell me a story about a fox. " * 30)
        self.client.chat.completions.create(model="demo", messages=story, max_tokens=1)
        reply = self.client.chat.completions.create(model="demo", messages=story, max_tokens=1)
        self.assertGreater(reply.usage.prompt_tokens_details.cached_tokens, 100)

    def test_models(self):
        self.assertEqual([m.id for m in self.client.models.list()], ["demo"])
        self.assertEqual(self.client.models.retrieve("demo").id, "demo")

    def test_errors(self):
        with self.assertRaises(openai.NotFoundError) as found:
            self.client.chat.completions.create(model="other", messages=user("hi"))
        self.assertEqual(found.exception.code, "model_not_found")
        with self.assertRaises(openai.BadRequestError) as found:
            self.ask(temperature=-1)
        self.assertEqual(found.exception.param, "temperature")
        with self.assertRaises(openai.AuthenticationError):
            self.client.with_options(api_key="wrong").models.list()


class Anthropic(unittest.TestCase):
    """The package `anthropic`."""

    def setUp(self):
        self.client = anthropic.Anthropic(base_url=SERVER.url, api_key="secret", max_retries=0)

    def test_answer(self):
        reply = self.client.messages.create(model="demo", max_tokens=100, messages=user(QUESTION))
        self.assertEqual(reply.content[0].text, ANSWER)
        self.assertEqual(reply.stop_reason, "end_turn")
        counted = self.client.messages.count_tokens(model="demo", messages=user(QUESTION))
        self.assertEqual(counted.input_tokens, reply.usage.input_tokens)

    def test_stream(self):
        with self.client.messages.stream(model="demo", max_tokens=100, messages=user(QUESTION)) as stream:
            self.assertEqual("".join(stream.text_stream), ANSWER)
            self.assertEqual(stream.get_final_message().stop_reason, "end_turn")

    def test_tools(self):
        more = {"model": "demo", "max_tokens": 100, "tools": [ANTHROPIC_TOOL]}
        with self.client.messages.stream(messages=user(RAIN), **more) as stream:
            message = stream.get_final_message()
        self.assertEqual(message.stop_reason, "tool_use")
        call = message.content[-1]
        self.assertEqual((call.name, call.input), ("get_weather", {"city": "Paris"}))
        result = {"type": "tool_result", "tool_use_id": call.id, "content": "It is sunny."}
        talk = user(RAIN) + [{"role": "assistant", "content": message.content}, {"role": "user", "content": [result]}]
        reply = self.client.messages.create(messages=talk, **more)
        self.assertIn(reply.stop_reason, ("end_turn", "tool_use", "max_tokens"))

    def test_forced_tool(self):
        choice = {"type": "tool", "name": "get_weather"}
        reply = self.client.messages.create(model="demo", max_tokens=100, messages=user(QUESTION), tools=[ANTHROPIC_TOOL],
                                            tool_choice=choice)
        self.assertEqual(reply.content[-1].name, "get_weather")

    def test_thinking_and_system(self):
        reply = self.client.messages.create(model="demo", max_tokens=60, messages=user(QUESTION), system="Be brief.",
                                            thinking={"type": "disabled"}, stop_sequences=["after"])
        self.assertEqual((reply.stop_reason, reply.stop_sequence), ("stop_sequence", "after"))

    def test_errors(self):
        with self.assertRaises(anthropic.NotFoundError):
            self.client.messages.create(model="other", max_tokens=1, messages=user("hi"))
        with self.assertRaises(anthropic.BadRequestError):
            self.client.messages.create(model="demo", max_tokens=1, messages=[])
        with self.assertRaises(anthropic.AuthenticationError):
            self.client.with_options(api_key="wrong").messages.create(model="demo", max_tokens=1, messages=user("hi"))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    SERVER = Server(sys.argv[1])
    try:
        done = unittest.main(argv=sys.argv[:1], exit=False, verbosity=2).result
    finally:
        code = SERVER.stop()
    sys.exit(0 if done.wasSuccessful() and code == 0 else 1)
