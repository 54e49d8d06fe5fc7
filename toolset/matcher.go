package toolset

import (
	"bytes"
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"
	"unicode/utf8"
)

// matcher finds the lines that match a regular expression. When every match
// must hold one of a few literal texts, it looks for those first, which is
// fastest; else it runs an automaton over everything.
type matcher struct {
	re    *regexp.Regexp
	prog  *syntax.Prog
	lits  [][]byte // every matching line holds one of them; none: unknown
	fold  bool     // they are lower case and the line's case does not count
	exact bool     // holding one is all there is to matching
}

// maxLiterals bounds how many literals are looked for at once.
const maxLiterals = 8

func newMatcher(pattern string) (*matcher, error) {
	re, err := regexp.Compile(pattern)
	if err != nil {
		return nil, err
	}
	m := &matcher{re: re}
	tree, err := syntax.Parse(pattern, syntax.Perl)
	if err != nil {
		return m, nil
	}
	tree = tree.Simplify()
	if prog, err := syntax.Compile(tree); err == nil {
		m.prog = prog
	}
	for _, lit := range required(tree) {
		m.lits = append(m.lits, []byte(lit.text))
		m.fold = m.fold || lit.fold
	}
	if m.fold {
		for i := range m.lits {
			m.lits[i] = bytes.ToLower(m.lits[i])
		}
	}
	m.exact = tree.Op == syntax.OpLiteral && tree.Flags&syntax.FoldCase == 0 && len(m.lits) == 1 && bytes.IndexByte(m.lits[0], '\n') < 0
	return m, nil
}

type literal struct {
	text string
	fold bool
}

// required gives literals of which every match holds at least one, or nil.
func required(re *syntax.Regexp) []literal {
	switch re.Op {
	case syntax.OpLiteral:
		if re.Flags&syntax.FoldCase == 0 {
			return []literal{{string(re.Rune), false}}
		}
		if text := foldable(re.Rune); text != "" {
			return []literal{{text, true}}
		}
	case syntax.OpCapture, syntax.OpPlus:
		return required(re.Sub[0])
	case syntax.OpRepeat:
		if re.Min > 0 {
			return required(re.Sub[0])
		}
	case syntax.OpConcat:
		var best []literal
		for _, sub := range re.Sub {
			if lits := required(sub); worth(lits) > worth(best) {
				best = lits
			}
		}
		return best
	case syntax.OpAlternate:
		var all []literal
		for _, sub := range re.Sub {
			lits := required(sub)
			if lits == nil || len(all)+len(lits) > maxLiterals {
				return nil
			}
			all = append(all, lits...)
		}
		return all
	}
	return nil
}

// worth is how good literals are to look for: the shortest decides.
func worth(lits []literal) int {
	if len(lits) == 0 {
		return 0
	}
	short := len(lits[0].text)
	for _, l := range lits {
		short = min(short, len(l.text))
	}
	return 16*min(short, 64) - len(lits)
}

// foldable gives the longest run of ASCII in a case-insensitive literal that
// nothing beyond ASCII can stand for: K and S also match the Kelvin sign and
// the long s.
func foldable(runes []rune) (best string) {
	var run strings.Builder
	for i := 0; i <= len(runes); i++ {
		if i < len(runes) && runes[i] < utf8.RuneSelf && !strings.ContainsRune("kKsS", runes[i]) {
			run.WriteRune(runes[i])
			continue
		}
		if run.Len() > len(best) {
			best = strings.ToLower(run.String())
		}
		run.Reset()
	}
	return best
}

// scanner is a matcher at work in one goroutine.
type scanner struct {
	*matcher
	auto  *automaton // instead of literals; nil: none
	lower []byte     // of the buffer last seen, when fold
	ahead []int      // where each literal is next, at or after the last question
}

// shortLiteral is a literal that stands on too many lines to be a help.
const shortLiteral = 2

func (m *matcher) scanner() *scanner {
	s := &scanner{matcher: m, ahead: make([]int, len(m.lits))}
	if !m.exact && !slices.ContainsFunc(m.lits, func(l []byte) bool { return len(l) > shortLiteral }) {
		s.auto = newAutomaton(m.prog)
	}
	return s
}

// next gives the first line of b, at or after the line start at, that
// matches: b[start:end] without its line end. start is -1 when there is none.
// Questions about one b come with growing at.
func (s *scanner) next(b []byte, at int) (start, end int) {
	if s.auto != nil {
		hit := s.auto.find(b, at)
		if hit < 0 {
			return -1, -1
		}
		if s.auto.worn() {
			s.auto = nil
			s.open(b)
		}
		return at + bytes.LastIndexByte(b[at:hit], '\n') + 1, lineEnd(b, hit)
	}
	if len(s.lits) == 0 {
		for at < len(b) {
			end := lineEnd(b, at)
			if s.matches(b[at:end]) {
				return at, end
			}
			at = end + 1
		}
		return -1, -1
	}
	if at == 0 {
		s.open(b)
	}
	hay := b
	if s.fold {
		hay = s.lower
	}
	for {
		hit := s.literal(hay, at)
		if hit < 0 {
			return -1, -1
		}
		start = at + bytes.LastIndexByte(b[at:hit], '\n') + 1
		end = lineEnd(b, hit)
		if s.exact || s.matches(b[start:end]) {
			return start, end
		}
		at = end + 1
		if at >= len(b) {
			return -1, -1
		}
	}
}

// matches asks the expression about a line, with and without a CR at its end.
func (m *matcher) matches(line []byte) bool {
	if m.re.Match(line) {
		return true
	}
	bare, cr := bytes.CutSuffix(line, []byte{'\r'})
	return cr && m.re.Match(bare)
}

// open prepares for a new buffer.
func (s *scanner) open(b []byte) {
	for i := range s.ahead {
		s.ahead[i] = -1
	}
	if !s.fold {
		return
	}
	if cap(s.lower) < len(b) {
		s.lower = make([]byte, len(b))
	}
	s.lower = s.lower[:len(b)]
	for i, c := range b {
		if c-'A' < 26 {
			c += 'a' - 'A'
		}
		s.lower[i] = c
	}
}

// literal gives the first place at or after at where one of the literals is,
// or -1.
func (s *scanner) literal(hay []byte, at int) int {
	best := -1
	for i, lit := range s.lits {
		if s.ahead[i] < at {
			s.ahead[i] = len(hay)
			if j := bytes.Index(hay[at:], lit); j >= 0 {
				s.ahead[i] = at + j
			}
		}
		if p := s.ahead[i]; p < len(hay) && (best < 0 || p < best) {
			best = p
		}
	}
	return best
}

func lineEnd(b []byte, at int) int {
	if i := bytes.IndexByte(b[at:], '\n'); i >= 0 {
		return at + i
	}
	return len(b)
}
