package api

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/anthropics/anthropic-sdk-go"
	"github.com/anthropics/anthropic-sdk-go/packages/respjson"
	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the golden files in testdata")

// golden gives the JSON of v after it was compared with its file.
func golden(t *testing.T, path string, v any) []byte {
	t.Helper()
	got, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	compareFile(t, path, append(got, '\n'))
	return got
}

func compareFile(t *testing.T, path string, got []byte) {
	t.Helper()
	path = filepath.Join("testdata", path)
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v (run with -update to write it)", err)
	}
	if d := cmp.Diff(string(want), string(got)); d != "" {
		t.Errorf("%s differs (-file +now):\n%s", path, d)
	}
}

func TestObjectsThroughTheSDK(t *testing.T) {
	for _, o := range append(objects(), pages()...) {
		t.Run(o.name, func(t *testing.T) {
			text := golden(t, "objects/"+o.name+".json", o.value)
			roundTrip(t, text, o.value)
			sdk := o.sdk()
			if err := json.Unmarshal(text, sdk); err != nil {
				t.Fatalf("the SDK refuses it: %v", err)
			}
			oracle{t, o.nulls, o.extra, nil}.check("", reflect.ValueOf(sdk).Elem())
		})
	}
}

func TestRequestsAreTheSDKs(t *testing.T) {
	for _, o := range requests() {
		t.Run(o.name, func(t *testing.T) {
			text := golden(t, "requests/"+o.name+".json", o.value)
			roundTrip(t, text, o.value)
			sdk := o.sdk()
			if err := json.Unmarshal(text, sdk); err != nil {
				t.Fatalf("the SDK refuses it: %v", err)
			}
			again, err := json.Marshal(sdk)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(loose(t, text), loose(t, again)); d != "" {
				t.Errorf("what the SDK would send differs (-ours +theirs):\n%s", d)
			}
		})
	}
}

// Every event type has a golden file, survives a list and a stream through
// the SDK's unions, and comes back as the type it was. The SDK has no event, and
// no part of one, that is not among them.
func TestEventsThroughTheSDK(t *testing.T) {
	seen := map[string]bool{}
	met := map[reflect.Type]map[reflect.Type]bool{}
	var stream bytes.Buffer
	fixtures := eventFixtures()
	slices.SortFunc(fixtures, func(a, b eventFixture) int { return strings.Compare(a.name, b.name) })
	for _, f := range fixtures {
		t.Run(f.name, func(t *testing.T) {
			kind := f.event.Head().Type
			seen[kind] = true
			text := golden(t, "events/"+f.name+".json", f.event)
			back, err := DecodeEvent(text)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(f.event, back, asJSON); d != "" {
				t.Errorf("decoded again it differs (-was +is):\n%s", d)
			}
			var streamed anthropic.BetaManagedAgentsStreamSessionEventsUnion
			if err := json.Unmarshal(text, &streamed); err != nil {
				t.Fatalf("the SDK's stream refuses it: %v", err)
			}
			o := oracle{t, f.nulls, nil, met}
			o.union("stream", reflect.ValueOf(streamed))
			if !f.streamOnly {
				var listed anthropic.BetaManagedAgentsSessionEventUnion
				if err := json.Unmarshal(text, &listed); err != nil {
					t.Fatalf("the SDK's list refuses it: %v", err)
				}
				o.union("list", reflect.ValueOf(listed))
			}
		})
		line, err := json.Marshal(f.event)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&stream, "event: %s\ndata: %s\n\n", f.event.Head().Type, line)
	}
	for _, name := range slices.Sorted(maps.Keys(events)) {
		if !seen[name] {
			t.Errorf("event type %s has no fixture", name)
		}
	}
	metAll(t, met)
	compareFile(t, "events.sse", stream.Bytes())
}

// metAll looks for variants of the SDK's unions that no fixture was.
func metAll(t *testing.T, met map[reflect.Type]map[reflect.Type]bool) {
	t.Helper()
	for union, variants := range met {
		if ofAgents.MatchString(union.Name()) {
			continue
		}
		for m := range union.Methods() {
			if strings.HasPrefix(m.Name, "As") && m.Name != "AsAny" && !variants[m.Type.Out(0)] {
				t.Errorf("no fixture has what %s.%s gives", union.Name(), m.Name)
			}
		}
	}
}

// Every type of error is read by the SDK, those that it has no name for, too.
func TestErrorsThroughTheSDK(t *testing.T) {
	nameless := []ErrorType{ErrConflict, ErrRequestTooLarge, ErrMemoryPrecondition, ErrMemoryPathConflict}
	met := map[reflect.Type]map[reflect.Type]bool{}
	for _, kind := range append([]ErrorType{ErrInvalidRequest, ErrAuthentication, ErrBilling, ErrPermission, ErrNotFound, ErrRateLimit, ErrAPI, ErrTimeout, ErrOverloaded}, nameless...) {
		want := ErrorResponse{Type: "error", RequestID: "req_01a", Error: ErrorBody{Type: kind, Message: "m", Details: map[string]any{"field": "name"}}}
		text, err := json.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		roundTrip(t, text, want)
		var sdk anthropic.ErrorResponse
		if err := json.Unmarshal(text, &sdk); err != nil {
			t.Fatalf("the SDK refuses %s: %v", text, err)
		}
		if sdk.Error.Type != string(kind) || sdk.Error.Message != "m" || sdk.RequestID != "req_01a" {
			t.Errorf("the SDK read %s as %+v", text, sdk)
		}
		if !slices.Contains(nameless, kind) {
			oracle{t, nil, []string{"details"}, met}.check("", reflect.ValueOf(sdk))
		}
	}
	metAll(t, met)
}

// ofAgents are the unions within an agent's snapshot, and the retry status, which
// every error has as a union of its own.
var ofAgents = regexp.MustCompile(`ModelConfig|Tool.*(Config|Policy|Default)|WebFetch|WebSearch|ExecutionIdentity|RetryStatus`)

// roundTrip decodes text as a server and as a client do, into values of the
// same type.
func roundTrip(t *testing.T, text []byte, v any) {
	t.Helper()
	for name, decode := range map[string]func([]byte, any) error{"Decode": Decode, "DecodeAnswer": DecodeAnswer} {
		into := reflect.New(reflect.TypeOf(v))
		if err := decode(text, into.Interface()); err != nil {
			t.Fatalf("%s refuses its own JSON: %v", name, err)
		}
		if d := cmp.Diff(v, into.Elem().Interface(), asJSON); d != "" {
			t.Errorf("%s: decoded again it differs (-was +is):\n%s", name, d)
		}
	}
}

// asJSON compares raw JSON by meaning, an effort by what it is answered as,
// and takes an absent list of configs for an empty one.
var asJSON = cmp.Options{
	cmp.Transformer("json", func(r json.RawMessage) any {
		if len(r) == 0 {
			return nil
		}
		var v any
		if json.Unmarshal(r, &v) != nil {
			return string(r)
		}
		return v
	}),
	cmp.Transformer("effort", func(e Effort) string {
		if e.Type == "" {
			return "high"
		}
		return e.Type
	}),
	cmp.Transformer("configs", func(c []ToolConfig) []any {
		list := []any{}
		for _, v := range c {
			list = append(list, v)
		}
		return list
	}),
}

func loose(t *testing.T, text []byte) any {
	t.Helper()
	var v any
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// oracle walks what the SDK decoded: each member must have been there and of
// the right type, null only where it may be, each union must have found its
// variant, no member may be left over, and each value must be the one sent.
type oracle struct {
	t     *testing.T
	nulls []string
	extra []string
	met   map[reflect.Type]map[reflect.Type]bool // the variants of each union; nil to forget them
}

var fieldType = reflect.TypeFor[respjson.Field]()

func (o oracle) check(path string, v reflect.Value) {
	o.t.Helper()
	switch {
	case v.Kind() == reflect.Struct && v.MethodByName("AsAny").IsValid():
		o.union(path, v)
	case v.Kind() == reflect.Struct && hasJSON(v):
		o.object(path, v)
	case v.Kind() == reflect.Slice:
		for i := range v.Len() {
			o.check(fmt.Sprintf("%s[%d]", path, i), v.Index(i))
		}
	}
}

func hasJSON(v reflect.Value) bool {
	f, ok := v.Type().FieldByName("JSON")
	return ok && f.Type.Kind() == reflect.Struct
}

func (o oracle) union(path string, v reflect.Value) {
	o.t.Helper()
	variant := v.MethodByName("AsAny").Call(nil)[0]
	for variant.Kind() == reflect.Interface {
		variant = variant.Elem()
	}
	if !variant.IsValid() {
		o.t.Errorf("%s: %s found no variant for %s", path, v.Type().Name(), rawOf(v))
		return
	}
	if o.met != nil {
		if o.met[v.Type()] == nil {
			o.met[v.Type()] = map[reflect.Type]bool{}
		}
		o.met[v.Type()][variant.Type()] = true
	}
	o.check(path, variant)
}

func rawOf(v reflect.Value) string {
	if m := v.MethodByName("RawJSON"); m.IsValid() {
		return m.Call(nil)[0].String()
	}
	return "?"
}

func (o oracle) object(path string, v reflect.Value) {
	o.t.Helper()
	meta := v.FieldByName("JSON")
	if extra := meta.FieldByName("ExtraFields"); extra.IsValid() && v.FieldByName("ExtraFields") == (reflect.Value{}) {
		for _, k := range extra.MapKeys() {
			if !slices.Contains(o.extra, k.String()) {
				o.t.Errorf("%s.%s: the SDK does not know this member", path, k)
			}
		}
	}
	for i := range v.NumField() {
		f := v.Type().Field(i)
		m := meta.FieldByName(f.Name)
		if f.Name == "JSON" || !m.IsValid() || m.Type() != fieldType {
			continue
		}
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		at := strings.TrimPrefix(path+"."+name, ".")
		state := m.Interface().(respjson.Field)
		switch text := state.Raw(); {
		case text == "":
			if f.Tag.Get("api") == "required" && !absentOK[v.Type().Name()+"."+name] {
				o.t.Errorf("%s: missing", at)
			}
		case text == "null":
			if !slices.Contains(o.nulls, name) {
				o.t.Errorf("%s: null", at)
			}
		case !state.Valid():
			o.t.Errorf("%s: the SDK cannot read %s", at, text)
		default:
			o.same(at, v.Field(i), text)
			o.check(at, v.Field(i))
		}
	}
}

// absentOK are members that the SDK's model type requires and servers leave
// out: capabilities are an open set.
var absentOK = map[string]bool{"BetaModelCapabilities.server_tools": true, "BetaModelCapabilities.thinking": true}

// same compares plain values with the text they came from.
func (o oracle) same(path string, v reflect.Value, text string) {
	o.t.Helper()
	switch v.Kind() {
	case reflect.String, reflect.Bool, reflect.Int64, reflect.Float64, reflect.Map:
	case reflect.Struct:
		if hasJSON(v) {
			return
		}
	default:
		return
	}
	again, err := json.Marshal(v.Interface())
	if err != nil {
		o.t.Errorf("%s: %v", path, err)
		return
	}
	if d := cmp.Diff(loose(o.t, []byte(text)), loose(o.t, again)); d != "" {
		o.t.Errorf("%s: the SDK read it differently (-sent +read):\n%s", path, d)
	}
}
