package upstream

import "strings"

// picturesInText counts what text-generation-inference takes for pictures within text
// (prepare_input in its router/src/validation.rs), however a request writes them. That
// server joins the parts of a message before it looks for them, and a template may print
// messages one right after the other, so a mark that begins in one text and ends in a later
// one counts as well.
func picturesInText(body, messages []byte) int64 {
	n := marksIn(body)
	if len(messages) == 0 || messages[0] != '[' {
		return n
	}
	var joined []byte
	read := func(text []byte) {
		if len(text) > 0 && text[0] == '"' {
			text = text[1 : len(text)-1]
			joined = append(joined, text...)
			n -= marksIn(text) // they are among those of the body, and of the joined text
		}
	}
	for message := range rawList(messages).elements {
		if message[0] != '{' {
			continue
		}
		content := rawObject(message).get("content")
		read(content)
		if len(content) == 0 || content[0] != '[' {
			continue
		}
		for part := range rawList(content).elements {
			read(part)
			if part[0] == '{' {
				read(rawObject(part).get("text"))
			}
		}
	}
	return n + marksIn(joined)
}

func marksIn(text []byte) int64 {
	return int64(strings.Count(unescaper.Replace(string(text)), "![]("))
}

var unescaper = strings.NewReplacer(`\u0021`, "!", `\u005b`, "[", `\u005B`, "[", `\u005d`, "]", `\u005D`, "]", `\u0028`, "(")
