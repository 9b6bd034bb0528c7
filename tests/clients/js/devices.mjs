// Devices that encrypt, by the Rust crypto of matrix-js-sdk (WebAssembly), and what the stories do with them.

import assert from "node:assert/strict";
import { CryptoEvent, VerificationPhase, VerifierEvent } from "matrix-js-sdk/lib/crypto-api/index.js";
import { RustBackupManager } from "matrix-js-sdk/lib/rust-crypto/backup.js";
import { PASSWORD, createClient, logIn, start, until } from "./client.mjs";

const SAS = "m.sas.v1";
// Else a client waits for up to ten seconds before it backs anything up.
RustBackupManager.maxBackupLoopStartDelayMillis = 0;

/** What a user remembers outside all devices: the recovery key of the secret storage. */
export function emptyMemory() {
    return { keyId: null, key: null };
}

/** A new device of an account, which has its keys at the server and follows what happens. */
export async function openDevice(url, name, { memory = emptyMemory(), deviceName = "first" } = {}) {
    const client = createClient(url, {
        ...await logIn(url, name, { deviceName }),
        verificationMethods: [SAS],
        cryptoCallbacks: {
            getSecretStorageKey: async ({ keys }) => (memory.keyId in keys ? [memory.keyId, memory.key] : null),
            cacheSecretStorageKey: (keyId, info, key) => Object.assign(memory, { keyId, key }),
        },
    });
    await client.initRustCrypto({ useIndexedDB: false });
    await start(client, { initialSyncLimit: 30, lazyLoadMembers: true });
    return client;
}

export async function logOut(client) {
    client.stopClient();
    await client.logout(true);
}

/** What answers a demand of user-interactive authentication with the password; it counts how often that was asked. */
export function passwordPrompt(client) {
    const prompt = async (makeRequest) => {
        try {
            return await makeRequest(null);
        } catch (error) {
            if (error.httpStatus !== 401) throw error;
            assert(error.data.flows.some((flow) => flow.stages.includes("m.login.password")), error);
            prompt.asked += 1;
            const identifier = { type: "m.id.user", user: client.getUserId() };
            const { session } = error.data;
            return makeRequest({ type: "m.login.password", identifier, password: PASSWORD, session });
        }
    };
    prompt.asked = 0;
    return prompt;
}

/** A room of two users, with encryption on from its beginning. */
export async function meetEncrypted(host, guest) {
    const { room_id: roomId } = await host.createRoom({
        name: "Tea",
        preset: "private_chat",
        invite: [guest.getUserId()],
        initial_state: [{ type: "m.room.encryption", state_key: "", content: { algorithm: "m.megolm.v1.aes-sha2" } }],
    });
    await until("the invite", () => guest.getRoom(roomId)?.getMyMembership() === "invite");
    await guest.joinRoom(roomId);
    await until("that both are in", () => [host, guest].every((client) =>
        [host, guest].every((user) => client.getRoom(roomId)?.getMember(user.getUserId())?.membership === "join")));
    for (const client of [host, guest]) {
        await until("the encryption", () => client.getCrypto().isEncryptionEnabledInRoom(roomId));
    }
    return roomId;
}

export async function say(client, roomId, text) {
    const { event_id: eventId } = await client.sendEvent(roomId, "m.room.message", { msgtype: "m.text", body: text });
    return eventId;
}

/** Wait until a device shows an event as this text, which it got encrypted; the key may come after it. */
export async function reads(client, roomId, eventId, text) {
    const what = `${text} at ${client.getUserId()} ${client.getDeviceId()}`;
    const event = await until(`the event of ${what}`, () => client.getRoom(roomId)?.findEventById(eventId));
    await until(what, () => event.getType() === "m.room.message" && !event.isDecryptionFailure());
    assert.equal(event.getWireType(), "m.room.encrypted");
    assert.equal(event.getContent().body, text);
}

/** Wait until a device knows a device of another user, or (`present` false) knows it no more. */
export async function knowsDevice(client, userId, deviceId, present = true) {
    await until(`${deviceId} of ${userId} ${present ? "there" : "gone"}`, async () => {
        const devices = await client.getCrypto().getUserDeviceInfo([userId], true);
        return (devices.get(userId)?.has(deviceId) ?? false) === present;
    });
}

/** Whether a device of a user counts as verified, by the user's own signature or (`kind`) as that says. */
export async function deviceStatus(client, userId, deviceId, kind = "signedByOwner") {
    return (await client.getCrypto().getDeviceVerificationStatus(userId, deviceId))?.[kind] ?? false;
}

export async function trusts(client, userId) {
    return (await client.getCrypto().getUserVerificationStatus(userId)).isCrossSigningVerified();
}

/** Have two devices show each other the same emoji, and their users say so. */
export async function compareEmoji(asker, asked, request) {
    const received = new Promise((resolve) => asked.once(CryptoEvent.VerificationRequestReceived, resolve));
    const asking = await request();
    const answering = await received;
    await answering.accept();
    await reaches(asking, VerificationPhase.Ready);
    const verifier = await asking.startVerification(SAS);
    await reaches(answering, VerificationPhase.Started);
    const shown = await Promise.all([verifier, answering.verifier].map(agree));
    assert.equal(shown[0].length, 7);
    assert.deepEqual(shown[0], shown[1]);
    await Promise.all([asking, answering].map((each) => reaches(each, VerificationPhase.Done)));
}

async function agree(verifier) {
    const shown = new Promise((resolve) => verifier.once(VerifierEvent.ShowSas, resolve));
    const verified = verifier.verify();
    const callbacks = verifier.getShowSasCallbacks() ?? await Promise.race([shown, verified]);
    await callbacks.confirm();
    await verified;
    return callbacks.sas.emoji;
}

async function reaches(request, phase) {
    await until(`phase ${phase} of the verification`, () => {
        assert.notEqual(request.phase, VerificationPhase.Cancelled, `cancelled: ${request.cancellationCode}`);
        return request.phase >= phase && request.phase !== VerificationPhase.Cancelled;
    });
}
