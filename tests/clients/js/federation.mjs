// Alice and Bob encrypt between two servers; the addresses of hers and of his are the last two arguments.

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { done, signUp, until } from "./client.mjs";
import {
    compareEmoji, deviceStatus, knowsDevice, logOut, meetEncrypted, openDevice, passwordPrompt, reads, say, trusts,
} from "./devices.mjs";

const [aliceUrl, bobUrl] = process.argv.slice(-2);

async function arrive(url, name) {
    // A server may be there for several stories.
    const unique = `${name}-${randomUUID().slice(0, 8)}`;
    await signUp(url, unique);
    const client = await openDevice(url, unique);
    await client.getCrypto().bootstrapCrossSigning({ authUploadDeviceSigningKeys: passwordPrompt(client) });
    await until("cross-signing", () => client.getCrypto().isCrossSigningReady());
    done(`cross-signing of ${name}`);
    return client;
}

async function talk(alice, bob, roomId) {
    await reads(bob, roomId, await say(alice, roomId, "from alice"), "from alice");
    await reads(alice, roomId, await say(bob, roomId, "from bob"), "from bob");
    done("encrypted messages both ways");
    for (const [viewer, user] of [[alice, bob], [bob, alice]]) {
        await until("the keys of the other", () => viewer.getCrypto().userHasCrossSigningKeys(user.getUserId()));
        await until("their signature", () => deviceStatus(viewer, user.getUserId(), user.getDeviceId()));
        assert(!(await trusts(viewer, user.getUserId())));
    }
    done("cross-signing keys of the other seen");
    await compareEmoji(alice, bob, () => alice.getCrypto().requestVerificationDM(bob.getUserId(), roomId));
    await until("that alice trusts bob", () => trusts(alice, bob.getUserId()));
    await until("that bob trusts alice", () => trusts(bob, alice.getUserId()));
    done("users of two servers verified by emoji");
}

/** A user gets a second device, signs it, and logs it out again: the other side notices all three. */
async function comeAndGo(url, user, other, roomId) {
    const userId = user.getUserId();
    const second = await openDevice(url, userId, { deviceName: "second" });
    const deviceId = second.getDeviceId();
    await knowsDevice(other, userId, deviceId);
    assert(!(await deviceStatus(other, userId, deviceId)));
    for (const sender of [other, user]) {
        const text = `to a new device from ${sender.getUserId()}`;
        const eventId = await say(sender, roomId, text);
        for (const reader of [user, other, second]) await reads(reader, roomId, eventId, text);
    }
    await reads(other, roomId, await say(second, roomId, "from a new device"), "from a new device");
    done("a new device is noticed");
    await knowsDevice(user, userId, deviceId);
    await user.getCrypto().crossSignDevice(deviceId);
    await until("that the signature is seen", () => deviceStatus(other, userId, deviceId, "crossSigningVerified"));
    done("its signature is noticed");
    await logOut(second);
    await knowsDevice(other, userId, deviceId, false);
    done("its end is noticed");
}

/** New cross-signing keys are told to the other side. */
async function reset(user, other) {
    const authUploadDeviceSigningKeys = passwordPrompt(user);
    await user.getCrypto().bootstrapCrossSigning({ setupNewCrossSigning: true, authUploadDeviceSigningKeys });
    assert.equal(authUploadDeviceSigningKeys.asked, 1);
    await until("that the new keys are not trusted", async () => {
        const status = await other.getCrypto().getUserVerificationStatus(user.getUserId());
        return status.wasCrossSigningVerified() && !status.isCrossSigningVerified();
    });
    done("replaced cross-signing keys are noticed");
}

const alice = await arrive(aliceUrl, "alice");
const bob = await arrive(bobUrl, "bob");
const roomId = await meetEncrypted(alice, bob);
done("an encrypted room");
await talk(alice, bob, roomId);
await comeAndGo(aliceUrl, alice, bob, roomId);
await comeAndGo(bobUrl, bob, alice, roomId);
await reset(alice, bob);
await reset(bob, alice);
for (const client of [alice, bob]) await logOut(client);
done("goodbye");
process.exit(0);
