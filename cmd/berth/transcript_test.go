package main

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berthdev/berth/api"
)

// written is what a transcript makes of events, given as JSON lines.
func written(t *testing.T, lines string) string {
	t.Helper()
	var out strings.Builder
	tr := newTranscript(&out, false)
	for l := range strings.Lines(strings.TrimSpace(lines)) {
		e, err := api.DecodeEvent(json.RawMessage(strings.TrimSpace(l)))
		if err != nil {
			t.Fatal(err)
		}
		tr.show(e)
	}
	tr.endLine()
	return out.String()
}

func TestTranscript(t *testing.T) {
	for _, test := range []struct{ name, events, want string }{
		{"text as it comes, and once", `
			{"type":"event_start","event":{"id":"m1","type":"agent.message"}}
			{"type":"event_delta","event_id":"m1","delta":{"type":"content_delta","index":0,"content":{"type":"text","text":"Hel"}}}
			{"type":"event_delta","event_id":"m1","delta":{"type":"content_delta","index":0,"content":{"type":"text","text":"lo "}}}
			{"id":"m1","type":"agent.message","processed_at":"2026-11-23T10:00:00Z","content":[{"type":"text","text":"Hello there"}]}`,
			"Hello there\n"},
		{"a message without previews", `
			{"id":"m1","type":"agent.message","processed_at":"2026-11-23T10:00:00Z","content":[{"type":"text","text":"Hello\n"}]}`,
			"Hello\n"},
		{"a request that failed amid the text", `
			{"type":"event_start","event":{"id":"m1","type":"agent.message"}}
			{"type":"event_delta","event_id":"m1","delta":{"type":"content_delta","index":0,"content":{"type":"text","text":"Hel"}}}
			{"id":"s1","type":"span.model_request_end","processed_at":"2026-11-23T10:00:00Z","model_request_start_id":"s0","is_error":true,"model_usage":{}}
			{"id":"m2","type":"agent.message","processed_at":"2026-11-23T10:00:00Z","content":[{"type":"text","text":"Hello"}]}`,
			"Hel\n […]\n\nHello\n"},
		{"calls asked for at once are shown one by one", `
			{"id":"c1","type":"agent.tool_use","processed_at":"2026-11-23T10:00:00Z","name":"bash","input":{"command":"sleep 2"}}
			{"id":"c2","type":"agent.tool_use","processed_at":"2026-11-23T10:00:00Z","name":"read","input":{"file_path":"a.txt"}}
			{"id":"r1","type":"user.tool_result","processed_at":"2026-11-23T10:00:02Z","tool_use_id":"c1","content":[{"type":"text","text":"(no output)"}]}
			{"id":"r2","type":"user.tool_result","processed_at":"2026-11-23T10:00:02.1Z","tool_use_id":"c2","is_error":true,"content":[{"type":"text","text":"no such file"}]}`,
			"$ sleep 2\n    (no output)\n    (2.0 s)\n\nread a.txt\n    no such file\n    (2.1 s)\n"},
		{"a result before its turn", `
			{"id":"c1","type":"agent.tool_use","processed_at":"2026-11-23T10:00:00Z","name":"bash","input":{"command":"one"}}
			{"id":"c2","type":"agent.tool_use","processed_at":"2026-11-23T10:00:00Z","name":"bash","input":{"command":"two"}}
			{"id":"r2","type":"user.tool_result","processed_at":"2026-11-23T10:00:00Z","tool_use_id":"c2","content":[{"type":"text","text":"2"}]}
			{"id":"r1","type":"user.tool_result","processed_at":"2026-11-23T10:00:00Z","tool_use_id":"c1","content":[{"type":"text","text":"1"}]}`,
			"$ one\n\n$ two\n    2\n\n$ one\n    1\n"},
		{"a call that waits is said to once", `
			{"id":"c1","type":"agent.tool_use","processed_at":"2026-11-23T10:00:00Z","name":"bash","input":{"command":"one"},"evaluated_permission":"ask"}
			{"id":"c2","type":"agent.tool_use","processed_at":"2026-11-23T10:00:00Z","name":"bash","input":{"command":"two"}}
			{"id":"r2","type":"user.tool_result","processed_at":"2026-11-23T10:00:00Z","tool_use_id":"c2","content":[{"type":"text","text":"2"}]}
			{"id":"c3","type":"user.tool_confirmation","processed_at":"2026-11-23T10:00:00Z","tool_use_id":"c1","result":"allow"}
			{"id":"r1","type":"user.tool_result","processed_at":"2026-11-23T10:00:00Z","tool_use_id":"c1","content":[{"type":"text","text":"1"}]}`,
			"$ one\n  waits for a confirmation\n\n$ two\n    2\n  allow\n\n$ one\n    1\n"},
		{"every call that waits for a confirmation is shown", `
			{"id":"c1","type":"agent.tool_use","processed_at":"2026-11-23T10:00:00Z","name":"bash","input":{"command":"one"},"evaluated_permission":"ask"}
			{"id":"c2","type":"agent.tool_use","processed_at":"2026-11-23T10:00:00Z","name":"bash","input":{"command":"two"},"evaluated_permission":"ask"}
			{"id":"c3","type":"agent.tool_use","processed_at":"2026-11-23T10:00:00Z","name":"bash","input":{"command":"three"}}
			{"id":"i1","type":"session.status_idle","processed_at":"2026-11-23T10:00:00Z","stop_reason":{"type":"requires_action","event_ids":["c1","c2","c3"]}}
			{"id":"r1","type":"user.tool_result","processed_at":"2026-11-23T10:00:00Z","tool_use_id":"c1","content":[{"type":"text","text":"1"}]}`,
			"$ one\n  waits for a confirmation\n\n$ two\n  waits for a confirmation\n\n$ one\n    1\n\n$ three\n"},
		{"a queued message is shown when its turn begins", `
			{"id":"u1","type":"user.message","processed_at":null,"content":[{"type":"text","text":"hi"}]}
			{"id":"u1","type":"user.message","processed_at":"2026-11-23T10:00:00Z","content":[{"type":"text","text":"hi"}]}`,
			"> hi\n"},
		{"what would move the cursor is taken out", `
			{"id":"m1","type":"agent.message","processed_at":"2026-11-23T10:00:00Z","content":[{"type":"text","text":"a\u001b[2Jb\rc\u009bd"}]}`,
			"a[2Jbcd\n"},
		{"an event that is newer than this program", `
			{"id":"x","type":"agent.telepathy","processed_at":"2026-11-23T10:00:00Z"}`, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, written(t, test.events)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestFoldedResult(t *testing.T) {
	text := strings.Repeat("line\n", foldResult+5) + strings.Repeat("x", foldColumns+7)
	raw, err := json.Marshal(text)
	if err != nil {
		t.Fatal(err)
	}
	got := written(t, `{"id":"c1","type":"agent.tool_use","processed_at":"2026-11-23T10:00:00Z","name":"bash","input":{"command":"cat"}}
{"id":"r1","type":"user.tool_result","processed_at":"2026-11-23T10:00:00Z","tool_use_id":"c1","content":[{"type":"text","text":`+string(raw)+`}]}`)
	want := "$ cat\n" + strings.Repeat("    line\n", foldResult) + "    … 6 more lines\n"
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestSummary(t *testing.T) {
	var out strings.Builder
	tr := newTranscript(&out, true)
	tr.Stop, tr.Requests = "end_turn", 3
	tr.Usage = api.ModelUsage{InputTokens: 1200, CacheReadInputTokens: 1000000, OutputTokens: 45}
	tr.summary(75 * time.Second)
	want := dim + "end_turn after 1 min 15 s: 3 model requests, 1,001,200 tokens in, 45 out (1,000,000 from cache)" + reset + "\n"
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Error(diff)
	}
}
