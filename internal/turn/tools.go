package turn

import (
	"encoding/json"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/internal/model"
)

// sandboxTools are the tools that workers run, as the model is told of them.
var sandboxTools = []model.Tool{
	{
		Name: "bash",
		Description: "Run a command in a persistent bash shell in the session's sandbox. The working directory, variables, functions and background jobs stay between calls. " +
			"stdout and stderr come back together in order; stdin is empty, so commands cannot ask questions. A long output keeps its head and tail. " +
			"A command that runs longer than timeout_ms (120000 when absent) is ended and the shell replaced. Set restart to true for a fresh shell.",
		Schema: schema(`{"command":{"type":"string","description":"Shell text to run. Needed unless restart is true."},`+
			`"restart":{"type":"boolean","description":"Replace the shell by a fresh one first."},`+
			`"timeout_ms":{"type":"integer","description":"Limit of this command in milliseconds; 120000 when absent."}}`, `[]`),
	},
	{
		Name:        "read",
		Description: "Read a text file. Returns its text without line numbers; give view_range for a part of a large file.",
		Schema: schema(`{"file_path":{"type":"string","description":"Path of the file, absolute or relative to the working directory."},`+
			`"view_range":{"type":"array","items":{"type":"integer"},"minItems":2,"maxItems":2,"description":"First and last line, counted from 1, both included; a last line of 0 or less means the end of the file."}}`, `["file_path"]`),
	},
	{
		Name:        "write",
		Description: "Write a whole file, replacing what was there. Missing directories are made.",
		Schema: schema(`{"file_path":{"type":"string","description":"Path of the file, absolute or relative to the working directory."},`+
			`"content":{"type":"string","description":"The whole new content."}}`, `["file_path","content"]`),
	},
	{
		Name:        "edit",
		Description: "Replace text in a file. old_string must match exactly, white space included, and be found once unless replace_all is true.",
		Schema: schema(`{"file_path":{"type":"string","description":"Path of the file, absolute or relative to the working directory."},`+
			`"old_string":{"type":"string","description":"Text to replace."},`+
			`"new_string":{"type":"string","description":"Text to put in its place; empty deletes."},`+
			`"replace_all":{"type":"boolean","description":"Replace every match instead of exactly one."}}`, `["file_path","old_string","new_string"]`),
	},
	{
		Name:        "glob",
		Description: "Find files by name pattern. ** matches any number of directories. Returns absolute paths, newest first, at most 200.",
		Schema: schema(`{"pattern":{"type":"string","description":"Pattern such as **/*.csv, relative to the start directory."},`+
			`"path":{"type":"string","description":"Directory to start in; the working directory when absent."}}`, `["pattern"]`),
	},
	{
		Name:        "grep",
		Description: "Search file contents for a regular expression. Returns path:line:text for each match.",
		Schema: schema(`{"pattern":{"type":"string","description":"Regular expression, case-sensitive."},`+
			`"path":{"type":"string","description":"File or directory to search; the working directory when absent."}}`, `["pattern"]`),
	},
}

func schema(properties, required string) json.RawMessage {
	return json.RawMessage(`{"type":"object","properties":` + properties + `,"required":` + required + `}`)
}

// offered are the tools that the model may ask for: the enabled ones that a
// worker can run, and the agent's custom ones.
func offered(agent api.SessionAgent) []model.Tool {
	var out []model.Tool
	for _, t := range agent.Tools {
		switch t.Type {
		case api.ToolAgentToolset:
			for _, st := range sandboxTools {
				if on, _ := policy(t, st.Name); on {
					out = append(out, st)
				}
			}
		case api.ToolCustom:
			out = append(out, model.Tool{Name: t.Name, Description: t.Description, Schema: t.InputSchema})
		}
	}
	return out
}

// policy is whether a tool of a set is enabled, and who may run it.
func policy(set api.Tool, name string) (enabled bool, permission string) {
	enabled, permission = true, "always_allow"
	take := func(c *api.ToolConfig) {
		if c.Enabled != nil {
			enabled = *c.Enabled
		}
		if c.PermissionPolicy != nil {
			permission = c.PermissionPolicy.Type
		}
	}
	if set.DefaultConfig != nil {
		take(set.DefaultConfig)
	}
	for i := range set.Configs {
		if set.Configs[i].Name == name {
			take(&set.Configs[i])
		}
	}
	return enabled, permission
}

// verdict is what becomes of a tool use.
type verdict struct {
	custom     bool
	permission api.Permission
	evaluation *api.Evaluation
	why        string // of a deny, for the model
}

func judge(agent api.SessionAgent, name string) verdict {
	for _, t := range agent.Tools {
		if t.Type == api.ToolCustom && t.Name == name {
			return verdict{custom: true}
		}
		if t.Type != api.ToolAgentToolset || !sandboxTool(name) {
			continue
		}
		on, permission := policy(t, name)
		if !on {
			return verdict{permission: api.PermissionDeny, why: "The tool " + name + " is not enabled for this agent."}
		}
		switch permission {
		case "always_allow":
			return verdict{permission: api.PermissionAllow, evaluation: &api.Evaluation{Type: permission}}
		case "auto":
			// No judge is built in, so a person decides.
			return verdict{permission: api.PermissionAsk, evaluation: &api.Evaluation{Type: permission,
				EvaluatedPermission: &api.AutoVerdict{Type: api.PermissionAsk, ReasonCode: "indeterminate"}}}
		default:
			return verdict{permission: api.PermissionAsk, evaluation: &api.Evaluation{Type: "always_ask"}}
		}
	}
	return verdict{permission: api.PermissionDeny, why: "There is no tool named " + name + " in this session."}
}

func sandboxTool(name string) bool {
	for _, t := range sandboxTools {
		if t.Name == name {
			return true
		}
	}
	return false
}

// environmentNote tells the model where its tools run.
const environmentNote = `# Working environment

Your tools run in a Linux sandbox that belongs to this session alone. The working directory is /workspace; relative paths start there, and files that the user gave you are there. Save every file meant for the user under /mnt/session/outputs. Skills, where there are any, are in skills/<name>/ below the working directory: read a skill's SKILL.md before you use it.`

// system is the session's whole system prompt.
func (r *Runner) system(agent api.SessionAgent) string {
	prompt := ""
	if agent.System != nil {
		prompt = *agent.System
	}
	if r.cfg.NoEnvironmentNote {
		return prompt
	}
	if prompt != "" {
		prompt += "\n\n"
	}
	return prompt + environmentNote
}
