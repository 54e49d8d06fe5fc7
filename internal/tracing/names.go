package tracing

import (
	"github.com/berthdev/berth/worker"
)

// The names of spans and attributes, all of them. Those of gen_ai are OpenTelemetry's
// conventions for generative AI (semantic-conventions-genai v0.1.0, still in
// development); those of berth are this program's own.
const (
	attrOperation    = "gen_ai.operation.name"
	attrTool         = "gen_ai.tool.name"
	attrToolType     = "gen_ai.tool.type"
	attrCall         = "gen_ai.tool.call.id"
	attrConversation = "gen_ai.conversation.id"
	attrErrorType    = "error.type"
	attrWork         = "berth.work.id"
	attrOutcome      = "berth.outcome"

	executeTool = "execute_tool"
)

// spanName names a span. A call's holds the tool, as the conventions ask.
func spanName(s worker.Span) string {
	switch s.Kind {
	case worker.SpanItem:
		return "serve_session"
	case worker.SpanClaim:
		return "claim_work"
	case worker.SpanSandbox:
		return "start_sandbox"
	case worker.SpanCall:
		return executeTool + " " + tool(s)
	case worker.SpanPost:
		return "post_result"
	}
	return string(s.Kind)
}

// tool is a tool's name, which a model gave.
func tool(s worker.Span) string {
	return s.Call.Name[:min(len(s.Call.Name), 128)]
}
