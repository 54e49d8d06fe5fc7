package toolset

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// plainLines is what a matcher must find: each line on its own, by regexp.
func plainLines(re *regexp.Regexp, text []byte) (found []string) {
	if len(text) == 0 {
		return nil
	}
	for i, line := range bytes.Split(bytes.TrimSuffix(text, []byte("\n")), []byte("\n")) {
		if re.Match(line) || re.Match(bytes.TrimSuffix(line, []byte("\r"))) {
			found = append(found, fmt.Sprintf("%d:%s", i, line))
		}
	}
	return found
}

func scannedLines(s *scanner, text []byte) (found []string) {
	for at := 0; at < len(text); {
		start, end := s.next(text, at)
		if start < 0 {
			break
		}
		found = append(found, fmt.Sprintf("%d:%s", bytes.Count(text[:start], []byte("\n")), text[start:end]))
		at = end + 1
	}
	return found
}

// every way a matcher can search
func scanners(m *matcher) map[string]*scanner {
	chosen, auto, lits := m.scanner(), m.scanner(), m.scanner()
	auto.auto = newAutomaton(m.prog)
	lits.auto = nil
	return map[string]*scanner{"chosen": chosen, "automaton": auto, "literals": lits}
}

func compare(t interface{ Errorf(string, ...any) }, pattern string, text []byte) {
	m, err := newMatcher(pattern)
	if err != nil {
		return
	}
	want := plainLines(m.re, text)
	for way, s := range scanners(m) {
		for range 2 { // the second time what was made is used
			if got := scannedLines(s, text); strings.Join(got, "\n") != strings.Join(want, "\n") {
				t.Errorf("%s: %q in %q\n got %q\nwant %q", way, pattern, text, got, want)
			}
		}
	}
}

var patternPieces = []string{"a", "b", "k", "s", "foo", "é", "ſ", ".", "^", "$", `\b`, `\B`, `\w`, `\d`, `\s`, "[a-f]", "[^a]", "(?i:k)", "(?i:Foo)", "|", "(", ")", "*", "+", "?", "{2}", `\A`, `\z`, " ", `\r`, `\n`, "(?m)", "(?s)", "(?U)", `[[:alpha:]]`, `\pL`}

func TestMatcherFindsWhatRegexpFinds(t *testing.T) {
	text := rapid.StringOf(rapid.RuneFrom([]rune("abkKsSfoO éſ\u212A\n\r\t1_\uFFFD\x80")))
	rapid.Check(t, func(t *rapid.T) {
		pattern := strings.Join(rapid.SliceOfN(rapid.SampledFrom(patternPieces), 1, 8).Draw(t, "pattern"), "")
		b := []byte(text.Draw(t, "text"))
		if len(b) > 0 && rapid.Bool().Draw(t, "broken") {
			b[rapid.IntRange(0, len(b)-1).Draw(t, "where")] = 0xff
		}
		compare(t, pattern, b)
	})
}

func FuzzMatcher(f *testing.F) {
	f.Add(`^a|b$`, []byte("a\r\n\nb"))
	f.Add(`(?i)\bk\B`, []byte("\u212A\xff\n"))
	f.Add(`x{2,3}\n?`, []byte("xx\nxxx"))
	f.Fuzz(func(t *testing.T, pattern string, text []byte) {
		if len(pattern) < 200 {
			compare(t, pattern, text)
		}
	})
}

// An expression with more states than are kept still finds its lines, and
// gives the automaton up.
func TestAutomatonWearsOut(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var b bytes.Buffer
	for b.Len() < 1<<20 {
		b.WriteByte("ab\n"[r.IntN(100)*3/100%2+r.IntN(100)/99])
	}
	pattern := "a[ab]{14}b[ab]{3}aa[ab]bb[ab]a"
	compare(t, pattern, b.Bytes())
	m, err := newMatcher(pattern)
	if err != nil {
		t.Fatal(err)
	}
	a := newAutomaton(m.prog)
	for at := 0; at < b.Len() && at >= 0; at = a.find(b.Bytes(), at+1) {
		if len(a.states) > maxAutoStates+1 {
			t.Fatalf("%d states are kept", len(a.states))
		}
	}
	if a.resets == 0 {
		t.Error("the automaton never ran out of states: the test shows nothing")
	}
}

// BenchmarkMatcher compares the ways to search one buffer, without files.
func BenchmarkMatcher(b *testing.B) {
	text := bytes.Repeat([]byte("return the value of index, or an Error from func(context) struct\n"), 64<<10)
	for _, pattern := range []string{`neverThere`, `(?i)neverThere`, `[A-Z][a-z]+[A-Z][a-z]+\d{2}`, `never|there is|nothing`, `\bint(eger)?\b`} {
		m, err := newMatcher(pattern)
		if err != nil {
			b.Fatal(err)
		}
		for way, s := range scanners(m) {
			b.Run(pattern+"/"+way, func(b *testing.B) {
				b.SetBytes(int64(len(text)))
				for b.Loop() {
					scannedLines(s, text)
				}
			})
		}
	}
}
