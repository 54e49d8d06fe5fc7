package plane

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/berthdev/berth/api"
)

// Limits of what clients send to sessions.
const (
	MaxEventsPerSend = 50
	MaxContentBlocks = 1000
	MaxToolResult    = 10 << 20 // bytes of one result event
	MaxTitle         = 1000     // characters
	maxDenyMessage   = 10_000   // characters
)

// sendable are the event types that clients may send.
var sendable = []string{
	api.TypeUserMessage, api.TypeUserInterrupt, api.TypeUserToolConfirmation, api.TypeUserCustomToolResult,
	api.TypeUserToolResult, api.TypeUserDefineOutcome, api.TypeSystemMessage,
}

// ParseSent reads what a client sends to a session, or gives the fault as an
// Invalid (or TooLarge) naming field[i]...; field is "events" or
// "initial_events". Only what can be judged without the session is checked.
func ParseSent(field string, raws []json.RawMessage) ([]api.Event, error) {
	if len(raws) > MaxEventsPerSend {
		return nil, Errorf(Invalid, "%d events are more than the %d that one request may send", len(raws), MaxEventsPerSend).In(field)
	}
	out := make([]api.Event, len(raws))
	for i, raw := range raws {
		at := fmt.Sprintf("%s[%d]", field, i)
		e, err := parseSent(at, raw)
		if err != nil {
			return nil, err
		}
		if field == "initial_events" && e.Head().Type != api.TypeUserMessage {
			return nil, Errorf(Invalid, "a session can begin with user.message and user.define_outcome only, not %s", e.Head().Type).In(at + ".type")
		}
		out[i] = e
	}
	return out, nil
}

func parseSent(at string, raw json.RawMessage) (api.Event, error) {
	if !utf8.Valid(raw) {
		return nil, Errorf(Invalid, "is not valid UTF-8").In(at)
	}
	kind, err := sentType(at, raw)
	if err != nil {
		return nil, err
	}
	s := sent{at: at, raw: raw, head: api.EventHead{Type: kind}}
	switch kind {
	case api.TypeUserMessage:
		return s.message()
	case api.TypeUserInterrupt:
		return s.interrupt()
	case api.TypeUserToolConfirmation:
		return s.confirmation()
	case api.TypeUserToolResult:
		return s.toolResult()
	case api.TypeUserCustomToolResult:
		return s.customToolResult()
	}
	// user.define_outcome and system.message
	return nil, Errorf(Invalid, "%s is not supported by this server yet", kind).In(at + ".type")
}

// sent is an event of a client, at its place in the request.
type sent struct {
	at   string
	raw  json.RawMessage
	head api.EventHead
}

// into decodes all of the event.
func (s sent) into(v any) error {
	if err := api.Decode(s.raw, v); err != nil {
		return within(s.at, err)
	}
	return nil
}

func (s sent) message() (api.Event, error) {
	var p struct {
		Type    string      `json:"type"`
		Content []api.Block `json:"content"`
	}
	if err := s.into(&p); err != nil {
		return nil, err
	}
	if len(p.Content) == 0 {
		return nil, Errorf(Invalid, "a message needs at least one content block").In(s.at + ".content")
	}
	if err := checkBlocks(s.at+".content", p.Content, "text", "image", "document"); err != nil {
		return nil, err
	}
	return &api.UserMessage{EventHead: s.head, Content: p.Content}, nil
}

func (s sent) interrupt() (api.Event, error) {
	var p struct {
		Type            string  `json:"type"`
		SessionThreadID *string `json:"session_thread_id"`
	}
	if err := s.into(&p); err != nil {
		return nil, err
	}
	return &api.UserInterrupt{EventHead: s.head, SessionThreadID: p.SessionThreadID}, nil
}

func (s sent) confirmation() (api.Event, error) {
	var p struct {
		Type        string  `json:"type"`
		ToolUseID   string  `json:"tool_use_id"`
		Result      string  `json:"result"`
		DenyMessage *string `json:"deny_message"`
	}
	if err := s.into(&p); err != nil {
		return nil, err
	}
	if err := checkEventID(s.at+".tool_use_id", p.ToolUseID); err != nil {
		return nil, err
	}
	if p.Result != "allow" && p.Result != "deny" {
		return nil, Errorf(Invalid, "must be allow or deny").In(s.at + ".result")
	}
	if p.DenyMessage != nil && p.Result != "deny" {
		return nil, Errorf(Invalid, "is only allowed with result deny").In(s.at + ".deny_message")
	}
	if p.DenyMessage != nil && utf8.RuneCountInString(*p.DenyMessage) > maxDenyMessage {
		return nil, Errorf(Invalid, "has more than %d characters", maxDenyMessage).In(s.at + ".deny_message")
	}
	return &api.UserToolConfirmation{EventHead: s.head, ToolUseID: p.ToolUseID, Result: p.Result, DenyMessage: p.DenyMessage}, nil
}

func (s sent) toolResult() (api.Event, error) {
	var p struct {
		Type      string      `json:"type"`
		ToolUseID string      `json:"tool_use_id"`
		Content   []api.Block `json:"content"`
		IsError   *bool       `json:"is_error"`
	}
	if err := s.into(&p); err != nil {
		return nil, err
	}
	if err := s.checkResult("tool_use_id", p.ToolUseID, p.Content); err != nil {
		return nil, err
	}
	return &api.UserToolResult{EventHead: s.head, ToolUseID: p.ToolUseID, Content: p.Content, IsError: p.IsError}, nil
}

func (s sent) customToolResult() (api.Event, error) {
	var p struct {
		Type            string      `json:"type"`
		CustomToolUseID string      `json:"custom_tool_use_id"`
		Content         []api.Block `json:"content"`
		IsError         *bool       `json:"is_error"`
	}
	if err := s.into(&p); err != nil {
		return nil, err
	}
	if err := s.checkResult("custom_tool_use_id", p.CustomToolUseID, p.Content); err != nil {
		return nil, err
	}
	return &api.UserCustomToolResult{EventHead: s.head, CustomToolUseID: p.CustomToolUseID, Content: p.Content, IsError: p.IsError}, nil
}

// checkResult judges a result of the call that field names.
func (s sent) checkResult(field, call string, content []api.Block) error {
	if err := checkEventID(s.at+"."+field, call); err != nil {
		return err
	}
	if len(s.raw) > MaxToolResult {
		return Errorf(TooLarge, "a result of %d bytes is more than the %d that are accepted", len(s.raw), MaxToolResult).In(s.at)
	}
	return checkBlocks(s.at+".content", content, "text", "image", "document", "search_result")
}

// sentType finds the type of an event and refuses those clients cannot send.
func sentType(at string, raw json.RawMessage) (string, error) {
	var p struct {
		Type *string `json:"type"`
	}
	if err := api.DecodeLenient(raw, &p); err != nil {
		return "", within(at, err)
	}
	if p.Type == nil {
		return "", Errorf(Invalid, "is required").In(at + ".type")
	}
	if slices.Contains(sendable, *p.Type) {
		return *p.Type, nil
	}
	if api.KnownEventType(*p.Type) {
		return "", Errorf(Invalid, "events of type %s are written by the server; clients cannot send them", *p.Type).In(at + ".type")
	}
	return "", Errorf(Invalid, "unknown event type %q", clip(*p.Type, 100)).In(at + ".type")
}

// within turns a *api.FieldError of a part into an Invalid of the whole.
func within(at string, err error) error {
	fe, ok := errors.AsType[*api.FieldError](err)
	if !ok {
		return Errorf(Invalid, "%s", err.Error()).In(at)
	}
	switch {
	case fe.Path == "":
	case strings.HasPrefix(fe.Path, "["):
		at += fe.Path
	default:
		at += "." + fe.Path
	}
	return Errorf(Invalid, "%s", fe.Problem).In(at)
}

func checkEventID(field, id string) error {
	if id == "" {
		return Errorf(Invalid, "is required").In(field)
	}
	if !strings.HasPrefix(id, PrefixEvent) {
		return Errorf(Invalid, "%q is not the id of an event; those begin with %s", clip(id, 100), PrefixEvent).In(field)
	}
	return nil
}

// CheckCreateSession judges what a create request says about the session
// itself; agent, environment and metadata have rules of their own.
func CheckCreateSession(r api.CreateSession) error {
	if r.EnvironmentID == "" {
		return Errorf(Invalid, "is required").In("environment_id")
	}
	if err := checkTitle("title", r.Title); err != nil {
		return err
	}
	if len(r.InitialEvents) > MaxEventsPerSend {
		return Errorf(Invalid, "%d events are more than %d", len(r.InitialEvents), MaxEventsPerSend).In("initial_events")
	}
	if len(r.Resources) > 0 {
		return resourceRefused(r.Resources[0])
	}
	if len(r.VaultIDs) > 0 {
		return Errorf(Invalid, "vaults are not supported by this server yet").In("vault_ids")
	}
	if !absent(r.Budget) {
		return Errorf(Invalid, "budgets are not supported by this server yet").In("budget")
	}
	return nil
}

func resourceRefused(raw json.RawMessage) error {
	var p struct {
		Type string `json:"type"`
	}
	if err := api.DecodeLenient(raw, &p); err != nil {
		return within("resources[0]", err)
	}
	switch p.Type {
	case "file", "github_repository":
		return Errorf(Invalid, "resources of type %s are not available on self_hosted environments", p.Type).In("resources[0].type")
	case "memory_store":
		return Errorf(Invalid, "memory stores are not supported by this server yet").In("resources[0].type")
	}
	return Errorf(Invalid, "unknown resource type %q", clip(p.Type, 100)).In("resources[0].type")
}

func checkTitle(field string, title *string) error {
	if title == nil {
		return nil
	}
	return checkText(field, *title, 0, MaxTitle)
}

// CheckUpdateSession judges what an update request says about the session
// itself; the agent's parts and metadata have rules of their own.
func CheckUpdateSession(u api.UpdateSession) error {
	if u.VaultIDs.Set {
		return Errorf(Invalid, "the vaults of a session cannot be changed").In("vault_ids")
	}
	if u.Budget.Set && !u.Budget.Null && !absent(u.Budget.Value) {
		return Errorf(Invalid, "budgets are not supported by this server yet").In("budget")
	}
	if u.Title.Set && !u.Title.Null {
		return checkTitle("title", &u.Title.Value)
	}
	return nil
}

func absent(raw json.RawMessage) bool {
	raw = bytes.TrimSpace(raw)
	return len(raw) == 0 || string(raw) == "null"
}

// clip shortens a client's text for an error message.
func clip(s string, n int) string {
	if utf8.RuneCountInString(s) <= n {
		return s
	}
	return string([]rune(s)[:n]) + "…"
}

// ResultDigest recognises a repeated result: it is the same for two results
// that say the same, however they are written down.
func ResultDigest(content []api.Block, isError *bool) [32]byte {
	said := struct {
		Content []api.Block
		IsError bool
	}{content, isError != nil && *isError}
	b, err := json.Marshal(said) // strings, bools and lists of them always marshal
	if err != nil {
		panic("plane: result digest: " + err.Error())
	}
	return sha256.Sum256(b)
}
