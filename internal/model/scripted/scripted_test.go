package scripted

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/internal/model"
)

func said(text string) model.Message {
	return model.Message{Role: model.User, Content: []api.Block{api.Text(text)}}
}

func answered(calls ...string) model.Message {
	return model.Message{Role: model.Assistant, Provider: model.ProviderBlocks, CallIDs: calls}
}

func results(texts ...string) model.Message {
	m := model.Message{Role: model.User}
	for i, s := range texts {
		m.Results = append(m.Results, model.Result{CallID: fmt.Sprint(i), Content: []api.Block{api.Text(s)}})
	}
	return m
}

func block(turns string) string { return "Hello\n```script\n{\"turns\":[" + turns + "]}\n```\nthanks" }

type ear struct{ heard []string }

func (e *ear) Start(i int, k model.BlockKind) { e.heard = append(e.heard, fmt.Sprintf("%d %s", i, k)) }
func (e *ear) Delta(i int, s string)          { e.heard = append(e.heard, s) }
func (e *ear) Alive()                         {}

func play(t *testing.T, attempt int, history ...model.Message) (model.Response, []string, error) {
	t.Helper()
	e := &ear{}
	resp, err := New(Config{}).Stream(t.Context(), model.Request{Messages: history, Attempt: attempt}, e)
	return resp, e.heard, err
}

func textOf(r model.Response) string {
	var b strings.Builder
	for _, block := range r.Blocks {
		b.WriteString(block.Text)
	}
	return b.String()
}

func TestTheHistorySaysWhichTurnComesNext(t *testing.T) {
	script := said(block(`{"text":"one","tools":[{"name":"bash"},{"name":"bash","input":{"command":"ls"}}]},{"text":"saw {{result 1}} and {{ result 0 }}"},{"text":"three"}`))
	for _, tc := range []struct {
		name    string
		history []model.Message
		want    string
		stop    model.Stop
	}{
		{"first", []model.Message{script}, "one", model.StopTools},
		{"second, with results", []model.Message{script, answered("0", "1"), results("a\n", "b\n\n")}, "saw b and a", model.StopEnd},
		{"third, after another message", []model.Message{script, answered("0", "1"), results("a", "b"), answered(), said("go on")}, "three", model.StopEnd},
		{"over, with nothing asked", []model.Message{script, answered(), answered(), answered()}, "", model.StopEnd},
		{"an older script does not count", []model.Message{script, answered(), said(block(`{"text":"new"}`))}, "new", model.StopEnd},
		{"answers before the script do not count", []model.Message{said("hi"), answered(), script}, "one", model.StopTools},
	} {
		resp, _, err := play(t, 0, tc.history...)
		if err != nil || textOf(resp) != tc.want || resp.Stop != tc.stop {
			t.Errorf("%s: got %q, %s, %v", tc.name, textOf(resp), resp.Stop, err)
		}
	}
	for name, history := range map[string][]model.Message{"no script": {said("hello")}, "played out": {script, answered(), answered(), answered(), said("more")}} {
		resp, _, err := play(t, 0, history...)
		if err != nil || !strings.Contains(textOf(resp), "```script") || resp.Stop != model.StopEnd {
			t.Errorf("%s: got %q, %v", name, textOf(resp), err)
		}
		// What it shows can be played.
		if body, ok := Find(textOf(resp)); !ok {
			t.Errorf("%s: the example is no block", name)
		} else if _, err := Parse([]byte(body)); err != nil {
			t.Errorf("%s: the example: %v", name, err)
		}
	}
}

func TestAnAnswerIsStreamedAsItIsGiven(t *testing.T) {
	long := strings.Repeat("ä€😀 ", 20)
	resp, heard, err := play(t, 0, said(block(`{"thinking":"hm","text":"`+long+`","tools":[{"name":"read","input":{"file_path":"x"}}],"usage":{"input_tokens":3,"output_tokens":4,"cache_read_input_tokens":5,"cache_creation_input_tokens":6}}`)))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(model.Usage{Input: 3, Output: 4, CacheRead: 5, CacheCreation5m: 6}, resp.Usage); d != "" {
		t.Error(d)
	}
	if heard[0] != "0 thinking" || heard[1] != "1 text" || heard[len(heard)-1] != "2 tool_use" || len(heard) < 5 {
		t.Errorf("heard %q", heard)
	}
	if got := strings.Join(heard[2:len(heard)-1], ""); got != long {
		t.Errorf("the pieces make %q", got)
	}
	want := `[{"kind":"thinking","text":"hm"},{"kind":"text","text":"` + long + `"},{"kind":"tool_use","name":"read","input":{"file_path":"x"}}]`
	if string(resp.Raw) != want || resp.Provider != model.ProviderBlocks {
		t.Errorf("raw %s", resp.Raw)
	}
}

func TestErrorsAreAProvidersErrors(t *testing.T) {
	for _, tc := range []struct {
		turn    string
		attempt int
		kind    model.ErrorKind // "" for an answer
		amid    bool
		wait    time.Duration
	}{
		{`{"text":"ok","error":"overloaded"}`, 0, model.Overloaded, false, 0},
		{`{"text":"ok","error":"overloaded"}`, 1, "", false, 0},
		{`{"text":"ok","error":{"type":"rate_limit_error","times":2,"retry_after_ms":30}}`, 1, model.RateLimited, false, 30 * time.Millisecond},
		{`{"text":"ok","error":{"type":"rate_limit_error","times":2}}`, 2, "", false, 0},
		{`{"text":"ok","error":{"type":"api_error","times":-1,"when":"amid"}}`, 99, model.Unavailable, true, 0},
		{`{"error":{"type":"billing","when":"amid"}}`, 0, model.Billing, true, 0},
		{`{"error":{"type":"invalid_request"}}`, 0, model.RequestFailed, false, 0},
		{`{"error":{"type":"authentication"}}`, 0, model.Credential, false, 0},
	} {
		resp, heard, err := play(t, tc.attempt, said(block(tc.turn)))
		if tc.kind == "" {
			if err != nil || textOf(resp) != "ok" {
				t.Errorf("%s, try %d: %q, %v", tc.turn, tc.attempt, textOf(resp), err)
			}
			continue
		}
		me, ok := errors.AsType[*model.Error](err)
		if !ok || me.Kind != tc.kind || me.Amid != tc.amid || me.RetryAfter != tc.wait {
			t.Errorf("%s, try %d: %+v", tc.turn, tc.attempt, err)
		}
		if !tc.amid && len(heard) > 0 {
			t.Errorf("%s: heard %q before the stream", tc.turn, heard)
		}
	}
	resp, _, err := play(t, 0, said(block(`{"text":"I will not.","tools":[{"name":"bash"}],"error":{"type":"refusal","message":"rude"}}`)))
	if err != nil || resp.Stop != model.StopRefusal || *resp.Refusal.Explanation != "rude" || len(resp.Blocks) != 1 {
		t.Errorf("refusal: %+v, %v", resp, err)
	}
	// A script that cannot be read is the request's fault.
	_, _, err = play(t, 0, said(block(`{"txt":"x"}`)))
	if me, ok := errors.AsType[*model.Error](err); !ok || me.Kind != model.RequestFailed || !strings.Contains(me.Message, "turns[0].txt") {
		t.Errorf("bad script: %v", err)
	}
}

func TestDelayIsWaitedForAndCut(t *testing.T) {
	var asked time.Duration
	stop := errors.New("cut")
	m := New(Config{Wait: func(_ context.Context, d time.Duration) error { asked = d; return stop }})
	_, err := m.Stream(t.Context(), model.Request{Messages: []model.Message{said(block(`{"delay_ms":1500,"text":"x"}`))}}, &ear{})
	if asked != 1500*time.Millisecond || !errors.Is(err, stop) {
		t.Errorf("waited %s, got %v", asked, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := New(Config{}).Stream(ctx, model.Request{Messages: []model.Message{said(block(`{"delay_ms":600000,"text":"x"}`))}}, &ear{}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestAConfiguredScriptIsPlayedWhereTheMessageHasNone(t *testing.T) {
	s, err := Parse([]byte(`{"turns":[{"text":"mine"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	m := New(Config{Script: s})
	for text, want := range map[string]string{"hi": "mine", block(`{"text":"theirs"}`): "theirs"} {
		resp, err := m.Stream(t.Context(), model.Request{Messages: []model.Message{said(text)}}, &ear{})
		if err != nil || textOf(resp) != want {
			t.Errorf("got %q, %v", textOf(resp), err)
		}
	}
}

func TestParseNamesLineAndField(t *testing.T) {
	for text, want := range map[string]string{
		"":                                 "line 1",
		"{\n\"turns\": [\n{\"text\": 1}]}": "line 3, turns[0].text",
		"{\"turns\":[\n\n{\"x\":1}]}":      "turns[0].x: unknown field",
		"{\"turns\":[{}],\n\"a\":1}":       "line 2, a: unknown field",
		"{\"turns\":[{},\n{]}":             "line 2",
		`{"turns":[]}`:                     "turns: ",
		`{"turns":[{"tools":[{}]}]}`:       "turns[0].tools[0].name",
		`{"turns":[{"tools":[{"name":"a","input":[1]}]}]}`:             "turns[0].tools[0].input: must be an object",
		`{"turns":[{"delay_ms":-1}]}`:                                  "turns[0].delay_ms",
		`{"turns":[{"delay_ms":600001}]}`:                              "turns[0].delay_ms",
		`{"turns":[{"error":"tired"}]}`:                                "turns[0].error.type",
		`{"turns":[{"error":{"type":"api_error","when":"after"}}]}`:    "turns[0].error.when",
		`{"turns":[{"error":{"type":"api_error","times":-2}}]}`:        "turns[0].error.times",
		`{"turns":[{"usage":{"output_tokens":-1}}]}`:                   "turns[0].usage",
		`{"turns":[{"text":"{{result 0}}"}]}`:                          "turns[0].text",
		`{"turns":[{"tools":[{"name":"a"}]},{"text":"{{result 1}}"}]}`: "turns[1].text",
		`{"turns":[{"text":"a"}]}{}`:                                   "line 1",
		`{"turns":[{"text":"a","text":"b"}]}`:                          "turns[0].text",
		`{"turns":[` + strings.Repeat("{},", MaxTurns) + `{}]}`:        "turns: 10001 turns",
		`{"turns":[{"text":"` + strings.Repeat("x", MaxBytes) + `"}]}`: "bytes",
	} {
		_, err := Parse([]byte(text))
		pe, ok := errors.AsType[*ParseError](err)
		if !ok || !strings.Contains(pe.Error(), want) {
			t.Errorf("%.60q: got %v, want %q", text, err, want)
		}
	}
}

func TestFindTakesTheBlockWhole(t *testing.T) {
	for text, want := range map[string]string{
		"```script\na\nb\n```\nc":                  "a\nb\n",
		"x\n  ````script \na\n```\nb\n````\nc":     "a\n```\nb\n",
		"```script\nnever closed":                  "never closed",
		"```json\n{}\n```\n```script\nsecond\n```": "second\n",
	} {
		if got, ok := Find(text); !ok || got != want {
			t.Errorf("%q: got %q, %v", text, got, ok)
		}
	}
	for _, text := range []string{"", "```\nscript\n```", "``script\nx\n``", "say ```script"} {
		if got, ok := Find(text); ok {
			t.Errorf("%q: found %q", text, got)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"turns":[{"text":"{{result 0}}","thinking":"x","tools":[{"name":"bash","input":{"command":"ls"}}],"delay_ms":1,"error":{"type":"overloaded","when":"amid"},"usage":{"input_tokens":1}}]}`))
	f.Add([]byte(`{"turns":[{"tools":[{"name":"bash"}]},{"text":"{{result 0}}","error":"refusal"}]}`))
	f.Add([]byte("{\n\"turns\"\n:[{]}"))
	f.Fuzz(func(t *testing.T, text []byte) {
		s, err := Parse(text)
		if err != nil {
			if _, ok := errors.AsType[*ParseError](err); !ok {
				t.Fatalf("not a ParseError: %v", err)
			}
			return
		}
		// What parses can be played to its end.
		m := New(Config{Script: s, Wait: func(context.Context, time.Duration) error { return nil }})
		history := []model.Message{said("go")}
		for i := range min(len(s.Turns), 50) {
			resp, err := m.Stream(context.Background(), model.Request{Messages: history, Attempt: 1000}, &ear{})
			if err != nil {
				if e := s.Turns[i].Error; e == nil || e.Times >= 0 && e.Times <= 1000 && e.Times != -1 {
					t.Fatalf("turn %d: %v", i, err)
				}
			}
			var texts []string
			for _, b := range resp.Blocks {
				if b.Kind == model.ToolUse {
					texts = append(texts, "r")
				}
			}
			history = append(history, answered(), results(texts...))
		}
	})
}

func FuzzFind(f *testing.F) {
	f.Add("a\n```script\n{}\n```\n")
	f.Fuzz(func(t *testing.T, text string) {
		if body, ok := Find(text); ok && !strings.Contains(text, body) {
			t.Fatalf("%q is not in %q", body, text)
		}
	})
}
