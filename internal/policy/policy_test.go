package policy

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/berthdev/berth/internal/egress"
	"github.com/berthdev/berth/internal/sandbox"
)

func parse(t *testing.T, text string) Policy {
	t.Helper()
	p, err := Parse("p.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestWhole(t *testing.T) {
	dir := t.TempDir()
	got := parse(t, `
image: registry.example/tools@sha256:0123
limits:
  cpu: 1.5
  memory: 2GiB
  pids: 512
  disk: 500 MB
  open_files: 4096
  call_time: 10m
  session_time: 2h
  output: 64KiB
  best_effort: [disk]
network:
  allow:
    - PyPI.org.
    - {host: "*.pythonhosted.org:443", name: wheels}
    - {host: 10.1.0.0/16, private: true}
secrets:
  - env: INDEX_TOKEN
    hosts: files.pythonhosted.org
    from_env: REAL_TOKEN
env:
  LANG: C.UTF-8
  EMPTY: ""
  N: 1
mounts:
  - {source: `+dir+`, target: /data}
  - {source: `+dir+`, target: /opt/cache/, read_only: false}
user: {name: dev, uid: 1234}
`)
	want := Policy{
		Image: "registry.example/tools@sha256:0123", Output: 64 << 10,
		Limits: sandbox.Limits{
			CPU: 1.5, Memory: 2 << 30, PIDs: 512, Disk: 500e6, OpenFiles: 4096, CallTime: 10 * time.Minute, SessionTime: 2 * time.Hour,
			Required: []sandbox.Limit{"call_time", "cpu", "memory", "open_files", "pids", "session_time"},
		},
		Network: Network{Mode: sandbox.NetworkAllow, Allow: []egress.Rule{
			{Host: "PyPI.org."}, {ID: "wheels", Host: "*.pythonhosted.org:443"}, {Host: "10.1.0.0/16", Private: true},
		}},
		Secrets: []Secret{{Secret: egress.Secret{Name: "INDEX_TOKEN", Env: "INDEX_TOKEN", Hosts: []string{"files.pythonhosted.org"}}, FromEnv: "REAL_TOKEN"}},
		Env:     map[string]string{"LANG": "C.UTF-8", "EMPTY": "", "N": "1"},
		Mounts:  []sandbox.Mount{{Source: dir, Target: "/data", ReadOnly: true}, {Source: dir, Target: "/opt/cache"}},
		User:    sandbox.User{Name: "dev", UID: 1234},
	}
	if d := cmp.Diff(want, got, comparable); d != "" {
		t.Error(d)
	}
	spec := got.Spec(sandbox.Spec{Env: map[string]string{"N": "0", "K": "v"}, OutputBytes: 1, Mounts: []sandbox.Mount{{Target: "/skills"}}})
	if spec.Image == nil || spec.Image.Ref != want.Image || spec.OutputBytes != 64<<10 || spec.Env["N"] != "1" || spec.Env["K"] != "v" ||
		len(spec.Mounts) != 3 || spec.User != want.User || spec.Policy != got.Digest() || spec.Network.Mode != sandbox.NetworkAllow {
		t.Errorf("the spec lacks something: %+v", spec)
	}
}

func TestSmall(t *testing.T) {
	for text, want := range map[string]Policy{
		"":                                      {},
		"# nothing\n":                           {},
		"{}":                                    {},
		"network: none":                         {},
		"network: host":                         {Network: Network{Mode: sandbox.NetworkHost}},
		`{"user":"dev"}`:                        {User: sandbox.User{Name: "dev"}},
		"user: 1001":                            {User: sandbox.User{UID: 1001}},
		"limits: {memory: 536870912}":           {Limits: sandbox.Limits{Memory: 512 << 20, Required: []sandbox.Limit{"memory"}}},
		"limits: {memory: 512Mi}":               {Limits: sandbox.Limits{Memory: 512 << 20, Required: []sandbox.Limit{"memory"}}},
		"network: {allow: [10.0.0.1, '[::1]']}": {Network: Network{Mode: sandbox.NetworkAllow, Allow: []egress.Rule{{Host: "10.0.0.1"}, {Host: "[::1]"}}}},
	} {
		if d := cmp.Diff(want, parse(t, text), comparable); d != "" {
			t.Errorf("%q: %s", text, d)
		}
	}
}

// Each mistake is refused at its line, naming the key, and says what to do.
func TestMistakes(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{
		"limits:\n  memroy: 1GiB":                        `p.yaml:2: limits has an unknown key "memroy"; did you mean memory?`,
		"\n\nimages: x":                                  `p.yaml:3: unknown key "images"; did you mean image?`,
		"image: a\nzzz: 1":                               `p.yaml:2: unknown key "zzz"; known here: image, limits,`,
		"user: a\nuser: b":                               `p.yaml:2`,
		"- a":                                            `p.yaml:1: is a list; give a mapping of image,`,
		"a: [\n":                                         `p.yaml:2: this is not YAML or JSON`,
		"a: b: c":                                        `p.yaml:1: this is not YAML or JSON`,
		"user: a\n---\nuser: b":                          `this is not YAML or JSON`,
		"env: &e {A: b}\nlimits: *e":                     `refers to another place`,
		"env:\n  <<: {A: b}":                             `p.yaml:2: env has a key that is no plain word`,
		"limits:\n  memory: 2g":                          `p.yaml:2: limits.memory is "2g", whose unit is unknown; use KiB`,
		"limits: {memory: lots}":                         `limits.memory is "lots", which is no size; write a number with its unit`,
		"limits: {memory: 512}":                          `limits.memory is "512"; give one from 16MiB to 1024TiB; a number without a unit is bytes`,
		"limits: {disk: 1e30GiB}":                        `limits.disk is`,
		"limits: {cpu: -1}":                              `limits.cpu is "-1"; give a number from 0.01`,
		"limits: {cpu: .nan}":                            `limits.cpu is ".nan"`,
		"limits: {pids: 1}":                              `limits.pids is "1"; give a whole number from 8`,
		"limits: {call_time: 60}":                        `limits.call_time is "60", which is no duration; write a number with its unit`,
		"limits: {call_time: 1ms}":                       `limits.call_time is "1ms"; give one from 1s`,
		"limits: {cpu: [1]}":                             `limits.cpu is a list; give a number of processors`,
		"limits: {cpu: }":                                `limits.cpu is empty; give`,
		"limits: {best_effort: [ram]}":                   `limits.best_effort[0] is "ram", which is no limit; name one of cpu,`,
		"limits: {best_effort: cpu}":                     `limits.best_effort names cpu, which has no value`,
		"network: any":                                   `network is "any"; give none, host, or allow with a list of hosts`,
		"network:":                                       `network is empty`,
		"network: {}":                                    `network is empty`,
		"network: {allow: [https://pypi.org]}":           `network.allow[0] is "https://pypi.org", an address of a page; give the host alone, "pypi.org"`,
		"network: {allow: ['*']}":                        `network.allow[0] cannot be a rule`,
		"network: {allow: ['a*.org']}":                   `network.allow[0] cannot be a rule`,
		"network: {allow: [\"a.org\\0.b.org\"]}":         `network.allow[0] cannot be a rule`,
		"network: {allow: [{name: x}]}":                  `network.allow[0] names no host`,
		"network: {allow: [{host: a, name: \"a\\nb\"}]}": `network.allow[0] cannot be a rule: its id`,
		"secrets: [{env: A, hosts: a, value: x}]":        `secrets[0].value would keep the secret in the policy; name where it is found`,
		"secrets: [{env: A, hosts: a}]":                  `secrets[0] does not say where its value is found`,
		"secrets: [{hosts: a, from_env: B}]":             `secrets[0] has no variable`,
		"secrets: [{env: A, from_env: B}]":               `secrets[0] has no host`,
		"secrets: [{env: A, hosts: a, from_file: b}]":    `secrets[0].from_file is "b"; give an absolute path`,
		"secrets: [{env: A, hosts: a.org, from_env: B}]\nnetwork: {allow: [b.org]}":                        `secrets[0] cannot be: no rule allows its host a.org:443; add one`,
		"env: {A: x}\nnetwork: {allow: [a]}\nsecrets: [{env: A, hosts: a, from_env: B}]":                   `secrets[0] and env both set A`,
		"secrets: [{env: A, hosts: a, from_env: B, header: Host}]\nnetwork: {allow: a}":                    `secrets[0] cannot be: the header Host`,
		"secrets: [{env: A, hosts: a, from_env: B}, {env: A, hosts: a, from_env: C}]\nnetwork: {allow: a}": `secrets[1] is called A, as one before`,
		"env: {A-B: x}":      `env.A-B is no name of a variable`,
		"env: {A: [x]}":      `env.A is a list`,
		"env: {A: \"x\\0\"}": `env.A is not a value`,
		"mounts: [{source: /nowhere/at/all, target: /data}]":                               `mounts[0].source is "/nowhere/at/all", which is no directory of this machine`,
		"mounts: [{source: " + file + ", target: /data}]":                                  `which is no directory`,
		"mounts: [{source: " + dir + ", target: data}]":                                    `mounts[0].target is "data"; give an absolute path`,
		"mounts: [{source: " + dir + ", target: /data/../etc/x}]":                          `mounts[0].target is "/etc/x": /etc is the sandbox's own; choose another place`,
		"mounts: [{source: " + dir + ", target: /}]":                                       `is the sandbox's own`,
		"mounts: [{source: " + dir + ", target: /mnt}]":                                    `/mnt/session is the sandbox's own`,
		"mounts: [{source: " + dir + ", target: /workspace/x}]":                            `/workspace is the sandbox's own`,
		"mounts: [{source: " + dir + ", target: /a/b}, {source: " + dir + ", target: /a}]": `mounts[1].target is "/a", and another mount is at /a/b`,
		"mounts: [{source: " + dir + ", target: /data, read_only: yes}]":                   `mounts[0].read_only is "yes"; give true or false`,
		"mounts: [{source: " + dir + "}]":                                                  `mounts[0] has no target`,
		"user: root":                                                                       `user is root, and nobody has privileges inside; name another`,
		"user: 0":                                                                          `user is "0"; give a whole number from 1`,
		"user: 65534":                                                                      `stands for whoever is unknown`,
		"user: 'a b'":                                                                      `which is no name of a user`,
		"image: 'a b'":                                                                     `image is "a b"; give a reference`,
		"image: ''":                                                                        `image is empty`,
		strings.Repeat("a", maxFile+1):                                                     `the policy is larger than 256 KiB`,
	} {
		_, err := Parse("p.yaml", []byte(text))
		pe, ok := errors.AsType[*Error](err)
		if !ok {
			t.Errorf("%.80q: got %v, want an *Error", text, err)
			continue
		}
		if !strings.Contains(pe.Error(), want) || pe.Cure == "" || strings.Contains(pe.Error(), "\n") {
			t.Errorf("%.80q:\n got %s\nwant %s", text, pe, want)
		}
	}
	if _, err := Read(filepath.Join(dir, "none")); !errorSays(err, "the policy cannot be read: no such file") {
		t.Error(err)
	}
	if _, err := Read(dir); !errorSays(err, "the policy cannot be read") {
		t.Error(err)
	}
}

func errorSays(err error, text string) bool {
	pe, ok := errors.AsType[*Error](err)
	return ok && strings.Contains(pe.Error(), text)
}

func TestFlags(t *testing.T) {
	p := parse(t, "limits: {memory: 1GiB, best_effort: memory}\nnetwork: host\nimage: a")
	if len(p.Limits.Required) != 0 {
		t.Errorf("a limit of best effort is required: %v", p.Limits.Required)
	}
	for key, text := range map[string]string{"limits.memory": "2GiB", "limits.cpu": "2", "image": "b"} {
		if err := p.Override("--x", key, text); err != nil {
			t.Error(err)
		}
	}
	if err := p.AllowHosts("--allow-host", []string{"a.org", "*.b.org"}); err != nil {
		t.Error(err)
	}
	want := Policy{
		Image: "b", Limits: sandbox.Limits{Memory: 2 << 30, CPU: 2, Required: []sandbox.Limit{"cpu", "memory"}},
		Network: Network{Mode: sandbox.NetworkAllow, Allow: []egress.Rule{{Host: "a.org"}, {Host: "*.b.org"}}},
	}
	if d := cmp.Diff(want, p, comparable); d != "" {
		t.Error(d)
	}
	if err := p.Override("--memory", "limits.memory", "2g"); !errorSays(err, `--memory: the value is "2g", whose unit is unknown; use KiB`) {
		t.Error(err)
	}
	if err := p.AllowHosts("--allow-host", []string{"a b"}); !errorSays(err, `--allow-host: the value cannot be a rule: "a b" is no host`) {
		t.Error(err)
	}
	s := parse(t, "network: {allow: [a.org]}\nsecrets: [{env: A, hosts: a.org, from_env: B}]")
	if err := s.AllowHosts("--allow-host", []string{"b.org"}); !errorSays(err, "secrets[0] cannot be: no rule allows its host a.org") {
		t.Errorf("a flag that leaves a secret without its host: %v", err)
	}
}

// Values come from where the policy says, at the last moment.
func TestSecrets(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("from a file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	text := "network: {allow: a.org}\nsecrets: [{env: A, hosts: a.org, from_env: B}, {name: c, header: X-Key, hosts: a.org, from_file: " + file + "}]"
	p := parse(t, text)
	r, err := p.Egress(func(name string) (string, bool) { return "from " + name + " of the worker", name == "B" })
	if err != nil {
		t.Fatal(err)
	}
	if r.Secrets[0].Value != egress.Hide("from B of the worker") || r.Secrets[1].Value != egress.Hide("from a file") {
		t.Error("a secret has not its value")
	}
	if s := fmt.Sprintf("%+v", p); strings.Contains(s, "from a file") {
		t.Error(s)
	}
	none := func(string) (string, bool) { return "", false }
	if _, err := p.Egress(none); !errorSays(err, "secret A: the variable B is not set; set it for this program") {
		t.Error(err)
	}
	os.Remove(file)
	if _, err := parse(t, text).Egress(func(string) (string, bool) { return "long enough", true }); !errorSays(err, "secret c: its file cannot be read: no such file or directory; let this user read "+file) {
		t.Error(err)
	}
}

// The digest is of what the policy says.
func TestDigest(t *testing.T) {
	a := parse(t, "limits: {cpu: 1, memory: 1GiB}\nenv: {A: x, B: y}")
	b := parse(t, `{"env": {"B": "y", "A": "x"}, "limits": {"memory": "1024MiB", "cpu": 1.0}}`)
	if a.Digest() != b.Digest() || !strings.HasPrefix(a.Digest(), "sha256:") {
		t.Errorf("one policy, two digests: %s %s", a.Digest(), b.Digest())
	}
	seen := []string{a.Digest()}
	for _, text := range []string{"", "limits: {cpu: 1, memory: 1GiB}", "limits: {cpu: 1, memory: 1GiB, best_effort: cpu}\nenv: {A: x, B: y}", "network: host", "user: x", "image: x"} {
		d := parse(t, text).Digest()
		if slices.Contains(seen, d) {
			t.Errorf("%q has another's digest", text)
		}
		seen = append(seen, d)
	}
	if (Policy{}).Digest() != "" {
		t.Error("no policy has a digest")
	}
}

func FuzzParse(f *testing.F) {
	page, err := os.ReadFile("../../docs/policy.md")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(page))
	for _, s := range []string{
		"limits: {cpu: 1, memory: 1GiB, best_effort: cpu}\nenv: {A: x}", `{"network":{"allow":["a.org",{"host":"*.b","ports":[1]}]}}`,
		"a: &a [*a]", "<<: *x", "secrets:\n- env: A\n  hosts: [a]\n  from_env: B\nnetwork: {allow: a}", "? [a]\n: b", "user: !!binary aGk=", "image: |\n  a\n  b\n", "mounts: [{source: /, target: /x}]",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		p, err := Parse("p", []byte(text))
		if err != nil {
			pe, ok := errors.AsType[*Error](err)
			if !ok || pe.Problem == "" || pe.Cure == "" || strings.ContainsAny(pe.Error(), "\n\x00") {
				t.Fatalf("%q: %#v", text, err)
			}
			return
		}
		for _, l := range p.Limits.Required {
			if !slices.Contains(limitNames, l) {
				t.Fatalf("%q requires %q", text, l)
			}
		}
		for _, m := range p.Mounts {
			if own := sandbox.Reserved(m.Target); own != "" {
				t.Fatalf("%q mounts at %s", text, m.Target)
			}
		}
		if p.User.UID < 0 || p.User.Name == "root" || (p.Network.Mode == sandbox.NetworkAllow) != (len(p.Network.Allow) > 0) && !strings.Contains(text, "allow") {
			t.Fatalf("%q: %+v", text, p)
		}
		if q, err := Parse("p", []byte(text)); err != nil || q.Digest() != p.Digest() {
			t.Fatalf("%q reads two ways", text)
		}
	})
}

var comparable = cmpopts.EquateComparable(egress.Hidden{})
