"""A stream client of Python's standard library alone, as strict as the Python
SDK: it yields the event names it knows and drops the rest without a word.

    streamclient.py BASE_URL SESSION_ID API_KEY

Prints one line "TYPE ID" for each event until the session's turn ends.
"""
import json
import sys
import urllib.request

KNOWN = {
    "message", "user.message", "user.interrupt", "user.tool_confirmation", "user.custom_tool_result",
    "user.tool_result", "user.define_outcome", "system.message",
    "agent.message", "agent.thinking", "agent.tool_use", "agent.tool_result", "agent.mcp_tool_use",
    "agent.mcp_tool_result", "agent.custom_tool_use", "agent.thread_message_sent",
    "agent.thread_message_received", "agent.thread_context_compacted",
    "session.status_running", "session.status_idle", "session.status_rescheduled",
    "session.status_terminated", "session.error", "session.updated", "session.deleted",
    "session.thread_created", "session.thread_status_running", "session.thread_status_idle",
    "session.thread_status_rescheduled", "session.thread_status_terminated",
    "span.model_request_start", "span.model_request_end", "span.outcome_evaluation_start",
    "span.outcome_evaluation_ongoing", "span.outcome_evaluation_end", "event_start", "event_delta",
}


def frames(lines):
    name, data = None, []
    for raw in lines:
        line = raw.decode("utf-8").rstrip("\r\n")
        if line == "":
            if data and name in KNOWN:
                yield name, json.loads("\n".join(data))
            name, data = None, []
        elif line.startswith(":"):
            continue
        elif line.startswith("event:"):
            name = line[6:].strip()
        elif line.startswith("data:"):
            data.append(line[5:].removeprefix(" "))


def main():
    base, session, key = sys.argv[1:]
    request = urllib.request.Request(
        f"{base}/v1/sessions/{session}/events/stream",
        headers={"x-api-key": key, "accept": "text/event-stream", "anthropic-beta": "managed-agents-2026-04-01"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        print("open", answer.headers["content-type"], flush=True)
        for name, event in frames(answer):
            assert name == event["type"], (name, event)
            print(name, event.get("id", "-"), flush=True)
            if name == "session.status_idle" and event["stop_reason"]["type"] != "requires_action":
                return


main()
