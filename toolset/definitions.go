package toolset

import "encoding/json"

// Definition is what a model is told of a tool.
type Definition struct {
	Name        string          `json:"name"`
	Description string          `json:"description"`
	InputSchema json.RawMessage `json:"input_schema"`
}

// Definitions describes the six tools, bash first.
func Definitions() []Definition {
	return []Definition{
		{"bash", "Run a command in a persistent bash shell. The working directory, variables, functions and background jobs stay from call to call; " +
			"stdin is empty. The result is stdout and stderr together, the middle left out when it is long, and the exit code when it is not 0.",
			json.RawMessage(`{"type":"object","properties":{` +
				`"command":{"type":"string","description":"Shell text to run; needed unless restart is true"},` +
				`"restart":{"type":"boolean","description":"Replace the shell by a fresh one first"},` +
				`"timeout_ms":{"type":"integer","description":"Limit in milliseconds, 120000 by default"}}}`)},
		{"read", "Read a file: text without line numbers, or a PNG, JPEG, GIF, WebP or PDF as it looks.",
			json.RawMessage(`{"type":"object","properties":{` +
				`"file_path":{"type":"string","description":"Absolute, or relative to the working directory"},` +
				`"view_range":{"type":"array","items":{"type":"integer"},"minItems":2,"maxItems":2,"description":"[start_line, end_line], first line is 1, both included; an end of 0 or less is the end of the file"}},` +
				`"required":["file_path"]}`)},
		{"write", "Write a whole file. Missing directories are made; an existing file keeps its mode.",
			json.RawMessage(`{"type":"object","properties":{` +
				`"file_path":{"type":"string","description":"Absolute, or relative to the working directory"},` +
				`"content":{"type":"string","description":"The whole content"}},` +
				`"required":["file_path","content"]}`)},
		{"edit", "Replace old_string by new_string in a file. old_string must match exactly and once, unless replace_all is true.",
			json.RawMessage(`{"type":"object","properties":{` +
				`"file_path":{"type":"string","description":"Absolute, or relative to the working directory"},` +
				`"old_string":{"type":"string","description":"Text to replace, exactly as it stands in the file"},` +
				`"new_string":{"type":"string","description":"Text to put in its place"},` +
				`"replace_all":{"type":"boolean","description":"Replace every occurrence"}},` +
				`"required":["file_path","old_string","new_string"]}`)},
		{"glob", "List paths that match a pattern, newest first: * and ? within a name, [a-z], {a,b}, ** for any depth. Hidden names match too.",
			json.RawMessage(`{"type":"object","properties":{` +
				`"pattern":{"type":"string","description":"Relative pattern such as **/*.go"},` +
				`"path":{"type":"string","description":"Directory to start in, the working directory by default"}},` +
				`"required":["pattern"]}`)},
		{"grep", "Search file contents for a regular expression (RE2 syntax, case sensitive unless it starts with (?i)). Gives path:line:text. Binary files, .git and node_modules are left out.",
			json.RawMessage(`{"type":"object","properties":{` +
				`"pattern":{"type":"string","description":"Regular expression"},` +
				`"path":{"type":"string","description":"File or directory to search, the working directory by default"}},` +
				`"required":["pattern"]}`)},
	}
}
