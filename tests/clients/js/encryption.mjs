// Two users of matrix-js-sdk and their devices encrypt, on the server whose address is the last argument.

import assert from "node:assert/strict";
import { createClient, done, refused, signUp, until } from "./client.mjs";
import {
    compareEmoji, deviceStatus, emptyMemory, knowsDevice, logOut, meetEncrypted, openDevice, passwordPrompt, reads, say,
    trusts,
} from "./devices.mjs";

const url = process.argv.at(-1);

/** Make an account's cross-signing keys, secret storage and key backup. */
async function setUp(client, name) {
    const crypto = client.getCrypto();
    const authUploadDeviceSigningKeys = passwordPrompt(client);
    await crypto.bootstrapCrossSigning({ authUploadDeviceSigningKeys });
    assert.equal(authUploadDeviceSigningKeys.asked, 0, "the first keys need no password");
    await until("the own signature", () => deviceStatus(client, client.getUserId(), client.getDeviceId()));
    done(`cross-signing of ${name}`);
    await crypto.bootstrapSecretStorage({
        createSecretStorageKey: () => crypto.createRecoveryKeyFromPassphrase(),
        setupNewKeyBackup: true,
    });
    await until("the keys in the secret storage", () => crypto.isSecretStorageReady());
    assert(await crypto.isCrossSigningReady());
    assert((await crypto.getCrossSigningStatus()).privateKeysInSecretStorage);
    assert.equal(await crypto.getActiveSessionBackupVersion(), (await crypto.getKeyBackupInfo()).version);
    done(`secret storage of ${name}`);
}

async function talk(alice, bob, roomId) {
    const eventId = await say(alice, roomId, "Käse 🧀");
    await reads(bob, roomId, eventId, "Käse 🧀");
    const answer = await say(bob, roomId, "Brot 🍞");
    await reads(alice, roomId, answer, "Brot 🍞");
    const shown = await alice.fetchRoomEvent(roomId, answer);
    assert.deepEqual(
        Object.keys(shown.content).filter((key) => !["algorithm", "ciphertext", "device_id", "sender_key", "session_id"].includes(key)),
        [],
    );
    done("encrypted messages both ways");
    return [eventId, answer];
}

/** A second device of Alice is verified by her first one; then it has her keys, and Bob can tell that it is hers. */
async function addDevice(alice, bob, roomId) {
    const second = await openDevice(url, alice.getUserId(), { deviceName: "second" });
    const [userId, deviceId] = [alice.getUserId(), second.getDeviceId()];
    await knowsDevice(alice, userId, deviceId);
    await knowsDevice(bob, userId, deviceId);
    assert(!(await deviceStatus(bob, userId, deviceId)));
    done("a second device is seen");
    await compareEmoji(second, alice, () => second.getCrypto().requestOwnUserVerification());
    done("two devices verified by emoji");
    await until("that the first device trusts the second", () => deviceStatus(alice, userId, deviceId, "crossSigningVerified"));
    await until("that the second device trusts the first", () =>
        deviceStatus(second, userId, alice.getDeviceId(), "crossSigningVerified"));
    await until("that bob sees the signature", () => deviceStatus(bob, userId, deviceId));
    done("the verification is seen by others");
    await until("the private keys", () => second.getCrypto().isCrossSigningReady());
    await until("the key of the backup", () => second.getCrypto().getSessionBackupPrivateKey());
    done("secrets shared between devices");
    const eventId = await say(bob, roomId, "to both devices");
    for (const device of [alice, second]) await reads(device, roomId, eventId, "to both devices");
    await reads(alice, roomId, await say(second, roomId, "from the second"), "from the second");
    done("messages with the second device");
    return second;
}

/** Alice and Bob compare emoji in their room: then each trusts the other, on devices too that were not part of it. */
async function verifyUsers(alice, second, bob, roomId) {
    assert(!(await trusts(alice, bob.getUserId())));
    await compareEmoji(alice, bob, () => alice.getCrypto().requestVerificationDM(bob.getUserId(), roomId), roomId);
    await until("that alice trusts bob", () => trusts(alice, bob.getUserId()));
    await until("that bob trusts alice", () => trusts(bob, alice.getUserId()));
    await until("that alice's second device trusts bob", () => trusts(second, bob.getUserId()));
    await until("that bob trusts alice's second device", () =>
        deviceStatus(bob, alice.getUserId(), second.getDeviceId(), "crossSigningVerified"));
    done("two users verified by emoji");
}

/** Take the cross-signing keys from the secret storage, as for a user who types in the recovery key. */
async function unlock(client) {
    const crypto = client.getCrypto();
    assert(!(await crypto.isCrossSigningReady()));
    // This fetches the public keys: without them the private ones are not believed.
    assert(await crypto.userHasCrossSigningKeys());
    await crypto.bootstrapCrossSigning({ authUploadDeviceSigningKeys: passwordPrompt(client) });
    assert(await crypto.isCrossSigningReady());
}

/** All of Alice's devices are gone; a new one restores everything from the recovery key. */
async function recover(aliceId, memory, bob, roomId, history) {
    const third = await openDevice(url, aliceId, { memory, deviceName: "third" });
    const crypto = third.getCrypto();
    await unlock(third);
    await until("that bob sees the signature", () => deviceStatus(bob, aliceId, third.getDeviceId(), "crossSigningVerified"));
    await until("that the third device trusts bob", () => trusts(third, bob.getUserId()));
    done("cross-signing restored from secret storage");
    await crypto.loadSessionBackupPrivateKeyFromSecretStorage();
    const { total, imported } = await crypto.restoreKeyBackup();
    assert(imported > 0 && imported === total, `${imported} of ${total}`);
    for (const [eventId, text] of history) await reads(third, roomId, eventId, text);
    done("key backup restored");
    return third;
}

/** While Alice has no device, a dehydrated one receives keys for her; her next device finds them there. */
async function dehydrate(device, memory, bob, roomId) {
    const aliceId = device.getUserId();
    assert(await device.getCrypto().isDehydrationSupported());
    await device.getCrypto().startDehydration();
    const dehydrated = await until("that bob sees the dehydrated device", async () => {
        const devices = (await bob.getCrypto().getUserDeviceInfo([aliceId])).get(aliceId);
        return [...devices.values()].find((each) => each.dehydrated);
    });
    done("a device dehydrated");
    await exhaust(bob, aliceId, dehydrated.deviceId);
    await logOut(device);
    await knowsDevice(bob, aliceId, device.getDeviceId(), false);
    const eventId = await say(bob, roomId, "while you were away");
    const next = await openDevice(url, aliceId, { memory, deviceName: "fourth" });
    await unlock(next);
    await next.getCrypto().startDehydration();
    await reads(next, roomId, eventId, "while you were away");
    done("a device rehydrated");
    return next;
}

/** Take all one-time keys of a device that makes no new ones, until its fallback key is given out again and again. */
async function exhaust(client, userId, deviceId) {
    const taken = [];
    let fallbacks = 0;
    do {
        const claimed = await client.claimOneTimeKeys([[userId, deviceId]], "signed_curve25519");
        const [key] = Object.values(claimed.one_time_keys[userId][deviceId]);
        taken.push(key.key);
        fallbacks += key.fallback ? 1 : 0;
    } while (taken.length < 2 || taken.at(-1) !== taken.at(-2));
    assert.equal(new Set(taken).size, taken.length - 1, "each one-time key once");
    assert.equal(fallbacks, 2, "then the fallback key");
    done("one-time keys exhausted");
}

/** New cross-signing keys want the password, and those who trusted the old ones are told. */
async function reset(alice, bob) {
    const authUploadDeviceSigningKeys = passwordPrompt(bob);
    await bob.getCrypto().bootstrapCrossSigning({ setupNewCrossSigning: true, authUploadDeviceSigningKeys });
    assert.equal(authUploadDeviceSigningKeys.asked, 1);
    await until("that alice does not trust the new keys", async () => {
        const status = await alice.getCrypto().getUserVerificationStatus(bob.getUserId());
        return status.wasCrossSigningVerified() && !status.isCrossSigningVerified();
    });
    done("cross-signing keys replaced");
}

const [aliceMemory, bobMemory] = [emptyMemory(), emptyMemory()];
for (const name of ["alice", "bob"]) await signUp(url, name);
const alice = await openDevice(url, "alice", { memory: aliceMemory });
const bob = await openDevice(url, "bob", { memory: bobMemory });
await setUp(alice, "alice");
await setUp(bob, "bob");
const roomId = await meetEncrypted(alice, bob);
const [question, answer] = await talk(alice, bob, roomId);
const second = await addDevice(alice, bob, roomId);
await verifyUsers(alice, second, bob, roomId);
await until("that all is backed up", async () =>
    (await alice.getCrypto().checkKeyBackupAndEnable()).backupInfo.count >= 2);
const gone = [alice, second].map((device) => device.getDeviceId());
for (const device of [second, alice]) await logOut(device);
for (const deviceId of gone) await knowsDevice(bob, alice.getUserId(), deviceId, false);
await refused(() => createClient(url, { accessToken: alice.getAccessToken() ?? "gone" }).whoami(), "M_UNKNOWN_TOKEN");
done("devices logged out are gone");
const third = await recover(alice.getUserId(), aliceMemory, bob, roomId, [[question, "Käse 🧀"], [answer, "Brot 🍞"]]);
await reads(third, roomId, await say(bob, roomId, "welcome back"), "welcome back");
const fourth = await dehydrate(third, aliceMemory, bob, roomId);
await reset(fourth, bob);
for (const device of [fourth, bob]) await logOut(device);
done("goodbye");
process.exit(0);
