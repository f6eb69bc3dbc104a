// Shows the description, with an Idempotency-Key that nobody has used: the first payment is new, its copy a replay.

const random = crypto.getRandomValues(new Uint8Array(16));
const key = Array.from(random, (byte) => byte.toString(16).padStart(2, "0")).join("");

fetch("openapi.json")
  .then((answer) => answer.json())
  .then((spec) => {
    spec.components.parameters.IdempotencyKey.example = key;
    SwaggerUIBundle({
      spec,
      dom_id: "#description",
      deepLinking: true,
      tryItOutEnabled: true,
      defaultModelsExpandDepth: 0,
      validatorUrl: null,
    });
  });
