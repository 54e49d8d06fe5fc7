package turn

import (
	"container/list"
	"encoding/json"
	"fmt"
	"sync"
	"unicode/utf8"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/internal/model"
	"github.com/berthdev/berth/internal/plane"
	"github.com/berthdev/berth/internal/store"
)

// MaxResultChars is how much of one result text the model is shown: the head
// and the tail of a longer one. The log keeps it whole.
const MaxResultChars = 100_000

const cutShort = "The call was interrupted before it had a result."

// history is a session's log as the model sees it, up to a place in the log.
// One goroutine uses it at a time.
type history struct {
	session  string
	pos      int64
	msgs     []model.Message
	results  map[string]slot // where the answer to a call of msgs goes
	bytes    int64
	attempts int // failed tries of the present request
}

type slot struct{ msg, result int }

func newHistory(session string) *history {
	return &history{session: session, results: map[string]slot{}}
}

// told are the event types that become part of the conversation.
var told = []string{
	api.TypeUserMessage, api.TypeUserToolResult, api.TypeUserCustomToolResult, api.TypeAgentToolResult,
	api.TypeSpanModelRequestEnd,
}

// batch is what a log gained since a place in it. It is read inside a
// transaction and taken in after the commit, for a closure may run twice.
type batch struct {
	rows    []plane.StoredEvent // in log order
	replays []plane.Replay
	queued  []plane.StoredEvent // waiting for their place
}

// since reads what the log of a session gained after pos, at most most rows
// (0 for all of it); more says that there are others.
func since(rd store.Reader, session string, pos int64, most int) (b batch, more bool, err error) {
	const page = 500
	q := store.EventQuery{AfterPos: pos, Types: told}
	for {
		q.Limit = page
		if most > 0 {
			q.Limit = min(page, most-len(b.rows))
		}
		rows, err := rd.Events(session, q)
		if err != nil {
			return b, false, fmt.Errorf("read the session's history: %w", err)
		}
		for _, row := range rows {
			if row.Pos == 0 {
				b.queued = append(b.queued, row)
				q.AfterQueued = row.ID
				continue
			}
			b.rows = append(b.rows, row)
			q.AfterPos = row.Pos
		}
		if more = len(rows) == q.Limit; !more || most > 0 && len(b.rows) >= most {
			break
		}
	}
	for _, row := range b.rows {
		if row.Type == api.TypeSpanModelRequestEnd {
			if b.replays, err = rd.Replays(session, pos); err != nil {
				return b, false, fmt.Errorf("read the model's answers: %w", err)
			}
			break
		}
	}
	return b, more, nil
}

// take adds a batch that follows on what is there.
func (h *history) take(b batch) error {
	for _, row := range b.rows {
		for len(b.replays) > 0 && b.replays[0].Pos <= row.Pos {
			h.answered(b.replays[0])
			b.replays = b.replays[1:]
		}
		if err := h.event(row); err != nil {
			return err
		}
		h.pos = row.Pos
	}
	return nil
}

// event adds a processed event.
func (h *history) event(row plane.StoredEvent) error {
	if row.Type == api.TypeSpanModelRequestEnd {
		return nil
	}
	e, err := api.DecodeEvent(row.Body)
	if err != nil {
		return fmt.Errorf("history of %s: %w", h.session, err)
	}
	h.said(said{e, len(row.Body)})
	return nil
}

// said adds an event, if it is part of the conversation.
func (h *history) said(s said) {
	switch e := s.event.(type) {
	default:
		return
	case *api.UserMessage:
		h.msgs = append(h.msgs, model.Message{Role: model.User, Content: e.Content})
	case *api.UserToolResult:
		h.result(e.ToolUseID, e.Content, e.IsError)
	case *api.UserCustomToolResult:
		h.result(e.CustomToolUseID, e.Content, e.IsError)
	case *api.AgentToolResult:
		h.result(e.ToolUseID, e.Content, e.IsError)
	}
	h.bytes += int64(s.bytes)
}

// answered adds a model's answer, and room for the results of its calls: until
// they are there, each says that it was cut short.
func (h *history) answered(rp plane.Replay) {
	msg := model.Message{Role: model.Assistant, Provider: rp.Provider, Raw: rp.Content, CallIDs: rp.CallIDs}
	h.bytes += int64(len(rp.Content))
	h.msgs = append(h.msgs, msg)
	if len(rp.CallIDs) == 0 {
		return
	}
	results := make([]model.Result, len(rp.CallIDs))
	for i, id := range rp.CallIDs {
		results[i] = model.Result{CallID: id, IsError: true, Content: []api.Block{api.Text(cutShort)}}
		h.results[id] = slot{len(h.msgs), i}
	}
	h.msgs = append(h.msgs, model.Message{Role: model.User, Results: results})
}

func (h *history) result(call string, content []api.Block, isError *bool) {
	at, ok := h.results[call]
	if !ok {
		return
	}
	h.msgs[at.msg].Results[at.result] = model.Result{CallID: call, Content: shown(content), IsError: isError != nil && *isError}
}

// shown is a result's content as the model sees it.
func shown(content []api.Block) []api.Block {
	if len(content) == 0 {
		return []api.Block{api.Text("(no output)")}
	}
	out := content
	for i, b := range content {
		if b.Type != "text" || len(b.Text) <= MaxResultChars || utf8.RuneCountInString(b.Text) <= MaxResultChars {
			continue
		}
		if &out[0] == &content[0] {
			out = append([]api.Block(nil), content...)
		}
		out[i].Text = headAndTail(b.Text, MaxResultChars)
	}
	return out
}

// headAndTail keeps about the first and last half of n characters.
func headAndTail(s string, n int) string {
	runes := []rune(s)
	half := n / 2
	return string(runes[:half]) +
		fmt.Sprintf("\n\n[%d characters left out; the output was %d characters long]\n\n", len(runes)-2*half, len(runes)) +
		string(runes[len(runes)-half:])
}

// failures counts the failed tries since the last answer or rest from the
// log, so that a crash does not give a request fresh tries.
func failures(rd store.Reader, session string, most int) (int, error) {
	rows, err := rd.Events(session, store.EventQuery{Desc: true, Limit: 4 * (most + 1),
		Types: []string{api.TypeSessionError, api.TypeSpanModelRequestEnd, api.TypeSessionStatusIdle}})
	if err != nil {
		return 0, fmt.Errorf("read the request's failed tries: %w", err)
	}
	n := 0
	for _, row := range rows {
		switch row.Type {
		case api.TypeSessionStatusIdle:
			return n, nil
		case api.TypeSessionError:
			var e api.SessionError
			if err := json.Unmarshal(row.Body, &e); err != nil {
				return 0, err
			}
			if e.Error.RetryStatus.Type == api.RetryRetrying {
				n++
			}
		case api.TypeSpanModelRequestEnd:
			var e api.SpanModelRequestEnd
			if err := json.Unmarshal(row.Body, &e); err != nil {
				return 0, err
			}
			if !e.IsError {
				return n, nil
			}
		}
	}
	return n, nil
}

// historyCache keeps the histories of sessions between their turns, least
// recently used ones out first. Safe for concurrent use.
type historyCache struct {
	mu    sync.Mutex
	most  int64
	total int64
	order list.List // of *history, most recent first
	by    map[string]*list.Element
}

// get takes a session's history out of the cache, or makes an empty one.
func (c *historyCache) get(session string) *history {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.by[session]; e != nil {
		return c.remove(e)
	}
	return newHistory(session)
}

// put gives it back.
func (c *historyCache) put(h *history) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.by == nil {
		c.by = map[string]*list.Element{}
	}
	if e := c.by[h.session]; e != nil {
		c.remove(e)
	}
	c.by[h.session] = c.order.PushFront(h)
	c.total += h.size()
	for c.total > c.most && c.order.Len() > 0 {
		c.remove(c.order.Back())
	}
}

// drop forgets a session.
func (c *historyCache) drop(session string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.by[session]; e != nil {
		c.remove(e)
	}
}

func (c *historyCache) remove(e *list.Element) *history {
	h := c.order.Remove(e).(*history)
	c.total -= h.size()
	delete(c.by, h.session)
	return h
}

// size is about what a history costs in memory.
func (h *history) size() int64 { return 2*h.bytes + 512*int64(len(h.msgs)) + 1024 }
