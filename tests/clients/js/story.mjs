// Two users of matrix-js-sdk meet on the server whose address is the last argument.

import assert from "node:assert/strict";
import { deflateSync } from "node:zlib";
import { createClient, done, logIn, refused, signUp, start, until } from "./client.mjs";

const url = process.argv.at(-1);

async function register(name) {
    await signUp(url, name);
    done(`register ${name}`);
    await refused(() => logIn(url, name, { password: "wrong" }), "M_FORBIDDEN");
    const client = createClient(url, { ...await logIn(url, name), timelineSupport: true });
    done(`log in ${name}`);
    await start(client, { initialSyncLimit: 5, lazyLoadMembers: true, threadSupport: true });
    return client;
}

function seen(client, roomId, eventId) {
    return until(`event ${eventId}`, () =>
        client.getRoom(roomId)?.getLiveTimeline().getEvents().find((event) => event.getId() === eventId));
}

async function say(client, roomId, text, more = {}) {
    const sent = await client.sendEvent(roomId, "m.room.message", { msgtype: "m.text", body: text, ...more });
    return sent.event_id;
}

async function meet(alice, bob) {
    await alice.setDisplayName("Alice in Wonderland 🐇");
    assert.equal((await bob.getProfileInfo(alice.getUserId())).displayname, "Alice in Wonderland 🐇");
    done("profile");
    const { room_id: roomId } = await alice.createRoom({ name: "Tea", topic: "at five", preset: "private_chat" });
    await until("the new room", () => alice.getRoom(roomId)?.name === "Tea");
    assert(alice.getRoom(roomId).getMember(alice.getUserId()).powerLevel >= 100);
    done("create a room");
    await alice.invite(roomId, bob.getUserId());
    await until("the invite", () => bob.getRoom(roomId)?.getMyMembership() === "invite");
    assert.equal(bob.getRoom(roomId).name, "Tea");
    done("invite");
    await bob.joinRoom(roomId);
    await until("the joined room", () => bob.getRoom(roomId)?.getMyMembership() === "join");
    await until("that bob has joined", () => alice.getRoom(roomId).getMember(bob.getUserId())?.membership === "join");
    assert.equal((await bob.getRoom(roomId).loadMembersIfNeeded()) || true, true);
    await until("all members", () => bob.getRoom(roomId).getJoinedMembers().length === 2);
    done("join");
    return roomId;
}

async function talk(alice, bob, roomId) {
    const eventId = await say(alice, roomId, "Käse 🧀");
    const message = await seen(bob, roomId, eventId);
    assert.equal(message.getContent().body, "Käse 🧀");
    assert.equal(message.getSender(), alice.getUserId());
    const echo = await seen(alice, roomId, eventId);
    await until("the remote echo", () => echo.status === null && echo.getUnsigned().transaction_id);
    const own = alice.getRoom(roomId).getLiveTimeline().getEvents();
    assert.equal(own.filter((event) => event.getContent().body === "Käse 🧀").length, 1, "one echo only");
    done("send");
    await until("an unread count", () => bob.getRoom(roomId).getUnreadNotificationCount() > 0);
    done("unread count");

    const edit = await say(alice, roomId, "* Brot", {
        "m.new_content": { msgtype: "m.text", body: "Brot" },
        "m.relates_to": { rel_type: "m.replace", event_id: eventId },
    });
    await until("the edit", () => message.getContent().body === "Brot" && message.replacingEventId() === edit);
    const { event_id: reaction } = await bob.sendEvent(roomId, "m.reaction", {
        "m.relates_to": { rel_type: "m.annotation", event_id: eventId, key: "👍" },
    });
    await seen(alice, roomId, reaction);
    const { events } = await alice.relations(roomId, eventId, "m.annotation", "m.reaction");
    assert.deepEqual(events.map((event) => event.getId()), [reaction]);
    done("edit and react");

    const inThread = await say(bob, roomId, "by the way", {
        "m.relates_to": { rel_type: "m.thread", event_id: eventId, is_falling_back: true, "m.in_reply_to": { event_id: eventId } },
    });
    const thread = await until("the thread", () => alice.getRoom(roomId).getThread(eventId));
    await until("the reply in the thread", () => thread.events.some((event) => event.getId() === inThread));
    done("thread");

    await bob.sendReadReceipt(bob.getRoom(roomId).findEventById(edit) ?? message, "m.read", true);
    await until("the receipt", () => alice.getRoom(roomId).getEventReadUpTo(bob.getUserId()) !== null
        && alice.getRoom(roomId).hasUserReadEvent(bob.getUserId(), eventId));
    done("read receipt");

    await bob.sendTyping(roomId, true, 10_000);
    await until("that bob is typing", () => alice.getRoom(roomId).getMember(bob.getUserId()).typing);
    await bob.sendTyping(roomId, false, 0);
    await until("that bob is not typing", () => !alice.getRoom(roomId).getMember(bob.getUserId()).typing);
    done("typing");
    return eventId;
}

/** Read the room back to its beginning with a client that has seen nothing of it. */
async function page(alice, bob, roomId, eventId) {
    const sent = [];
    for (let number = 0; number < 25; number++) sent.push(await say(alice, roomId, `number ${number}`));
    await seen(bob, roomId, sent.at(-1));
    const again = createClient(url, await logIn(url, bob.getUserId()));
    await again.startClient({ initialSyncLimit: 3 });
    try {
        const room = await until("the room on the second device", () => again.getRoom(roomId));
        assert(room.getLiveTimeline().getEvents().length <= 3);
        for (let turn = 0; room.oldState.paginationToken !== null && turn < 20; turn++) await again.scrollback(room, 10);
        const ids = room.getLiveTimeline().getEvents().map((event) => event.getId());
        assert.equal(new Set(ids).size, ids.length, "every event once");
        assert.deepEqual(ids.filter((id) => sent.includes(id)), sent, "in order");
        assert.equal(room.getLiveTimeline().getEvents()[0].getType(), "m.room.create");
        const first = room.findEventById(eventId);
        assert.equal(first.getContent().body, "Brot", "the edit is bundled or applied");
    } finally {
        again.stopClient();
        await again.logout(true);
    }
    done("page back");
    const timeline = await bob.getEventTimeline(bob.getRoom(roomId).getUnfilteredTimelineSet(), sent[10]);
    assert(timeline.getEvents().some((event) => event.getId() === sent[10]));
    done("context");
    await alice.redactEvent(roomId, sent[24]);
    await until("the redaction", () => bob.getRoom(roomId).findEventById(sent[24]).isRedacted());
    done("redact");
}

function chunk(kind, content) {
    const body = Buffer.concat([Buffer.from(kind, "latin1"), content]);
    const framed = Buffer.alloc(body.length + 8);
    framed.writeUInt32BE(content.length, 0);
    body.copy(framed, 4);
    framed.writeUInt32BE(crc(body), body.length + 4);
    return framed;
}

function crc(bytes) {
    let value = ~0;
    for (const byte of bytes) {
        value ^= byte;
        for (let bit = 0; bit < 8; bit++) value = (value >>> 1) ^ (value & 1 ? 0xedb88320 : 0);
    }
    return ~value >>> 0;
}

/** A gray PNG of this size. */
function picture(width, height) {
    const header = Buffer.alloc(13);
    header.writeUInt32BE(width, 0);
    header.writeUInt32BE(height, 4);
    header[8] = 8;
    const rows = Buffer.alloc((width + 1) * height, 100);
    for (let row = 0; row < height; row++) rows[row * (width + 1)] = 0;
    return Buffer.concat([
        Buffer.from("\x89PNG\r\n\x1a\n", "latin1"),
        chunk("IHDR", header), chunk("IDAT", deflateSync(rows)), chunk("IEND", Buffer.alloc(0)),
    ]);
}

async function fetched(client, address) {
    const answer = await fetch(address, { headers: { Authorization: `Bearer ${client.getAccessToken()}` } });
    assert.equal(answer.status, 200, await answer.clone().text());
    return { type: answer.headers.get("Content-Type"), body: Buffer.from(await answer.arrayBuffer()) };
}

async function see(alice, bob, roomId) {
    const content = picture(400, 300);
    const { content_uri: uri } = await alice.uploadContent(content, { name: "grau ö.png", type: "image/png" });
    const { event_id: eventId } = await alice.sendEvent(roomId, "m.room.message", { msgtype: "m.image", body: "grau", url: uri });
    assert.equal((await seen(bob, roomId, eventId)).getContent().url, uri);
    const whole = await fetched(bob, bob.mxcUrlToHttp(uri, undefined, undefined, undefined, false, true, true));
    assert.equal(whole.type, "image/png");
    assert(whole.body.equals(content));
    const small = await fetched(bob, bob.mxcUrlToHttp(uri, 32, 32, "crop", false, true, true));
    assert.match(small.type, /^image\//);
    assert(small.body.length > 0 && !small.body.equals(content));
    assert((await bob.getMediaConfig(true))["m.upload.size"] > 1_000_000);
    await alice.setAvatarUrl(uri);
    await until("the avatar", () => bob.getRoom(roomId).getMember(alice.getUserId()).getMxcAvatarUrl() === uri);
    done("picture");
}

async function part(alice, bob, roomId) {
    await alice.setRoomTopic(roomId, "at six");
    await until("the topic", () =>
        bob.getRoom(roomId).currentState.getStateEvents("m.room.topic", "")?.getContent().topic === "at six");
    done("state");
    await bob.leave(roomId);
    await until("that bob is gone", () => alice.getRoom(roomId).getMember(bob.getUserId()).membership === "leave");
    await until("that bob sees it", () => bob.getRoom(roomId)?.getMyMembership() === "leave");
    await bob.forget(roomId);
    assert.equal(bob.getRoom(roomId), null);
    await refused(() => bob.sendEvent(roomId, "m.room.message", { msgtype: "m.text", body: "still here" }), "M_FORBIDDEN");
    done("leave and forget");
}

const alice = await register("alice");
const bob = await register("bob");
try {
    const roomId = await meet(alice, bob);
    const eventId = await talk(alice, bob, roomId);
    await page(alice, bob, roomId, eventId);
    await see(alice, bob, roomId);
    await part(alice, bob, roomId);
} finally {
    alice.stopClient();
    bob.stopClient();
}
await bob.logout(true);
await refused(() => createClient(url, { accessToken: bob.getAccessToken() ?? "gone" }).whoami(), "M_UNKNOWN_TOKEN");
done("goodbye");
process.exit(0);
