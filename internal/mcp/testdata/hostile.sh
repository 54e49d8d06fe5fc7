# An MCP server that misbehaves as its first argument says.
id() { [[ $line =~ \"id\":([0-9]+) ]] && echo "${BASH_REMATCH[1]}"; }
say() { printf '{"jsonrpc":"2.0","id":%s,"result":%s}\n' "$(id)" "$1"; }
call() { printf '{"jsonrpc":"2.0","id":%s,"result":{"content":%s}}\n' "$(id)" "$1"; }
while IFS= read -r line; do
	case $line in
	*'"initialize"'*)
		case $1 in
		mute) continue ;;
		gone) echo "no such place" >&2; exit 4 ;;
		noise) echo "starting up"; echo; echo "[1, 2]" ;;
		esac
		say '{"protocolVersion":"2025-11-25","capabilities":{"tools":{"listChanged":true}},"serverInfo":{"name":"x","version":"1"}}' ;;
	*'"tools/list"'*)
		case $1 in
		pages) say '{"tools":[],"nextCursor":"more"}' ;;
		many) t=; for ((i = 0; i < 300; i++)); do t+="${t:+,}{\"name\":\"t$i\",\"inputSchema\":{\"type\":\"object\"}}"; done; say "{\"tools\":[$t]}" ;;
		*) say '{"tools":[{"name":"do","inputSchema":{"type":"object"}},{"name":"do","inputSchema":{"type":"object"}},{"name":"a b","description":"x","inputSchema":{"type":"object"}},{"name":"arr","description":"x","inputSchema":{"type":"array"}}]}' ;;
		esac ;;
	*'"tools/call"'*)
		case $1 in
		line) head -c 20000000 /dev/zero | tr '\0' x | { printf '{"a":"'; cat; } ;;
		deep) printf '{"jsonrpc":"2.0","id":%s,"result":' "$(id)"; head -c 4000000 /dev/zero | tr '\0' '['; echo '}' ;;
		broken) echo '{"jsonrpc":"2.0","id":' ;;
		flood) yes '{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"}}' ;;
		noisy) yes noise ;;
		ask) for ((i = 0; i < 5000; i++)); do echo "{\"jsonrpc\":\"2.0\",\"id\":\"q$i\",\"method\":\"sampling/createMessage\",\"params\":{}}"; done ;;
		other) printf '{"jsonrpc":"2.0","id":%s,"result":{"content":[]}}\n' 424242; exit 9 ;;
		big) printf '{"jsonrpc":"2.0","id":%s,"result":{"content":[{"type":"text","text":"' "$(id)"; head -c 1000000 /dev/zero | tr '\0' x; echo '"}]}}' ;;
		nul) call '[{"type":"text","text":"a\u0000b"},{"type":"text","text":""}]' ;;
		strange) call '[{"type":"nonsense"}]' ;;
		error) printf '{"jsonrpc":"2.0","id":%s,"error":{"code":-32000,"message":"sorry"}}\n' "$(id)" ;;
		deaf) exec sleep 600 ;;
		*) call '[{"type":"text","text":"done"}]' ;;
		esac ;;
	esac
done
