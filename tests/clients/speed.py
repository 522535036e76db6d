"""Times of a server, with the standard library alone.

    speed.py prefix MODEL TOKENS [FLAGS]   time to the first token of a long system prompt: new, again,
                                           with another last message, next turn, after a restart
    speed.py clients MODEL TOKENS [FLAGS]  tokens a second of one and of eight clients, what lies
                                           between steps, and what is read of the disk
    speed.py overhead MODEL TOKENS [FLAGS] what one client waits for beyond the engine's steps: for one
                                           token, and for all; and what `bench` says

MODEL is a model's folder with a tokenizer and a chat template; FLAGS go to `moeflux serve`. The binary
is `moeflux` on the path, or what MOEFLUX says.
"""

import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request


class Server:
    def __init__(self, model, flags):
        binary = os.environ.get("MOEFLUX", "moeflux")
        command = [binary, "serve", "-m", model, "--port", "0", *flags]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        found = (re.search(r"http://([^/]+)/", line) for line in self.process.stderr)
        self.address = next(match for match in found if match).group(1)
        drain = threading.Thread(target=lambda: list(self.process.stderr), daemon=True)
        drain.start()

    def open(self, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        headers = {"content-type": "application/json"}
        url = f"http://{self.address}{path}"
        return urllib.request.urlopen(urllib.request.Request(url, data, headers))

    def metric(self, name):
        text = self.open("/metrics").read().decode()
        return float(re.search(rf"^moeflux_{name} (\S+)", text, re.M).group(1))

    def ask(self, messages, **more):
        """Seconds to the first token's event, the count of tokens and the text."""
        body = {"messages": messages, "stream": True, "stream_options": {"include_usage": True}}
        start, first, usage, text = time.perf_counter(), None, None, ""
        with self.open("/v1/chat/completions", {**body, "logprobs": True, **more}) as lines:
            for line in lines:
                if not line.startswith(b"data: {"):
                    continue
                event = json.loads(line[6:])
                usage = event.get("usage") or usage
                for choice in event["choices"]:
                    if choice.get("logprobs") and first is None:
                        first = time.perf_counter() - start
                    text += choice["delta"].get("content") or ""
        return first, usage, text

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()


def user(text):
    return {"role": "user", "content": text}


def prefix(model, tokens, flags):
    folder = tempfile.TemporaryDirectory()
    flags = [*flags, "--prefix-cache-dir", folder.name]
    words = "the quick brown fox of Ada has a code that nobody knows and it is number".split()
    server = Server(model, flags)
    draw, text, count = random.Random(1), "", 0
    while count < tokens:
        text += " ".join(draw.choice(words) for _ in range(200)) + " "
        count = len(json.load(server.open("/tokenize", {"content": text}))["tokens"])
    question = [{"role": "system", "content": text}, user("What is the code of Ada?")]
    times = {}

    def note(name, messages):
        times[name], usage, said = server.ask(messages, max_tokens=8, temperature=0)
        known = usage["prompt_tokens_details"]["cached_tokens"]
        ratio = times["new"] / times[name]
        print(f"{name:12} {times[name] * 1e3:10.1f} ms  {ratio:6.1f} times shorter, "
              f"{known} of {usage['prompt_tokens']} tokens known", flush=True)
        return said

    server.ask([user("hello")], max_tokens=1)
    answer = note("new", question)
    assert note("again", question) == answer
    note("edited", [question[0], user("What is the number of the fox, then?")])
    note("next turn", [*question, {"role": "assistant", "content": answer}, user("And his?")])
    server.stop()
    server = Server(model, flags)
    server.ask([user("hello")], max_tokens=1)
    assert note("restarted", question) == answer
    server.stop()


def clients(model, tokens, flags):
    server = Server(model, [*flags, "--speculate", "off", "--prefix-cache", "0"])
    more = {"max_tokens": tokens, "ignore_eos": True, "logprobs": False}
    sums = [f"{what}_seconds_{part}" for what in ("step", "token") for part in ("sum", "count")]

    def run(count):
        before = [server.metric(name) for name in sums]
        read, start = server.metric("expert_bytes_read_total"), time.perf_counter()
        ask = lambda i: server.ask([user(f"Tell me story {i} about a fox.")], seed=i, **more)
        threads = [threading.Thread(target=ask, args=(i,)) for i in range(count)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        step, steps, gap, gaps = (server.metric(n) - b for n, b in zip(sums, before))
        rate = count * gaps / gap
        read = (server.metric("expert_bytes_read_total") - read) / (time.perf_counter() - start)
        print(f"{count} clients: {rate:8.2f} tokens a second, {step / steps * 1e3:.3f} ms a step, "
              f"{gap / gaps * 1e3:.3f} ms between tokens, {read * 1e-9:.2f} GB/s read", flush=True)
        return rate

    run(8)
    rates = [(run(1), run(8)) for _ in range(5)]
    ratios = sorted(eight / one for one, eight in rates)
    print(f"eight are {ratios[2]:.2f} times one (median of 5)")
    server.stop()


def overhead(model, tokens, flags):
    server = Server(model, [*flags, "--speculate", "off", "--prefix-cache", "0"])
    question = [user("Tell me a story about a fox.")]

    def beyond(count):
        """Seconds from a request to the answer's end, those of steps and the others."""
        before, start = server.metric("step_seconds_sum"), time.perf_counter()
        server.ask(question, max_tokens=count, ignore_eos=True, logprobs=False)
        end = time.perf_counter() - start
        steps = server.metric("step_seconds_sum") - before
        return steps, end - steps

    server.ask(question, max_tokens=tokens, ignore_eos=True)
    median = lambda values: sorted(values)[len(values) // 2]
    first = [beyond(1)[1] for _ in range(21)]
    print(f"one token: {median(first) * 1e3:.2f} ms beyond its step (median of 21), "
          f"at most {max(first) * 1e3:.2f}", flush=True)
    shares = []
    for _ in range(5):
        steps, more = beyond(tokens)
        shares.append(more / steps)
        print(f"{tokens} tokens: {steps:.3f} s of steps, {more * 1e3:.1f} ms beyond them, "
              f"{shares[-1]:.2%}", flush=True)
    print(f"{median(shares):.2%} beyond the steps (median of 5)", flush=True)
    server.stop()
    binary = os.environ.get("MOEFLUX", "moeflux")
    subprocess.run([binary, "bench", "-m", model, "-p", "0", "-n", str(tokens)], check=True)


if __name__ == "__main__":
    test, model, tokens, *flags = sys.argv[1:]
    {"prefix": prefix, "clients": clients, "overhead": overhead}[test](model, int(tokens), flags)
