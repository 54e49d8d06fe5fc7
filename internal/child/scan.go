package child

import "strings"

// reserved are bash's reserved words: where one stands, only bash can say
// whether the text is whole.
var reserved = map[string]bool{
	"if": true, "then": true, "else": true, "elif": true, "fi": true, "case": true, "esac": true,
	"for": true, "select": true, "while": true, "until": true, "do": true, "done": true, "in": true,
	"function": true, "time": true, "[[": true, "]]": true, "!": true, "coproc": true,
}

// surelyWhole says of a simple text that it is a whole command: that bash will
// not look for more. false means that bash has to be asked.
func surelyWhole(text string) bool {
	word := -1    // where the current bare word begins
	start := true // between words
	open := false // the last thing was an operator that wants another command
	for i := 0; i <= len(text); i++ {
		c := byte('\n')
		if i < len(text) {
			c = text[i]
		}
		switch c {
		case ' ', '\t', '\n', ';', '|', '&', '<', '>':
			if word >= 0 && reserved[text[word:i]] {
				return false
			}
			start, word = true, -1
			switch c {
			case '<':
				if i+1 < len(text) && text[i+1] == '<' {
					return false
				}
				open = false
			case '|':
				open = true
			case '&':
				open = i > 0 && (text[i-1] == '&' || text[i-1] == '|')
			case ';', '>':
				open = false
			}
			continue
		case '#':
			if start {
				n := strings.IndexByte(text[i:], '\n')
				if n < 0 {
					return !open
				}
				i += n - 1
				continue
			}
		case '\'':
			n := strings.IndexByte(text[i+1:], '\'')
			if n < 0 {
				return false
			}
			i += n + 1
			word = -1
		case '"':
			n := quoted(text[i+1:])
			if n < 0 {
				return false
			}
			i += n
			word = -1
		case '\\':
			if i+1 >= len(text) {
				return false
			}
			i++
			word = -1
		case '$':
			if i+1 < len(text) && strings.IndexByte("({'\"[", text[i+1]) >= 0 {
				return false
			}
		case '`', '(', ')', '{', '}':
			return false
		case '[':
			if !start { // a subscript may run to the end
				return false
			}
			word = i
		default:
			if start {
				word = i
			}
		}
		start, open = false, false
	}
	return !open
}

// quoted is the length of a double-quoted string up to and with its closing
// quote, or -1 when it has none or holds an expansion that could stay open.
func quoted(s string) int {
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '"':
			return i + 1
		case '\\':
			i++
		case '`':
			return -1
		case '$':
			if i+1 < len(s) && strings.IndexByte("({[", s[i+1]) >= 0 {
				return -1
			}
		}
	}
	return -1
}
