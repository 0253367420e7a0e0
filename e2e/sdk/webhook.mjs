// A receiver that verifies with the package standardwebhooks and prints what it
// was told. It is driven by webhook_test.go.
import { createServer } from 'node:http'
import { Webhook } from 'standardwebhooks'

const webhook = new Webhook(process.env.TILL_HOOK_SECRET)

createServer((req, res) => {
  const parts = []
  req.on('data', (part) => parts.push(part))
  req.on('end', () => {
    let event
    try {
      event = webhook.verify(Buffer.concat(parts).toString(), req.headers)
    } catch {
      return res.writeHead(401).end()
    }
    console.log(event.type, event.data.key_id)
    res.writeHead(204).end()
  })
}).listen(Number(process.env.ADDRESS.split(':').pop()), '127.0.0.1')
